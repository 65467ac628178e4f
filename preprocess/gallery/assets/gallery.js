// Builds the page from its embedded JSON. Names and captions are user text, and are only set as textContent.
{
  const { summary, images } = JSON.parse(byId("data").textContent);
  const pictureOf = new WeakMap(); // img element → data URI, until the card comes near the screen
  const filters = byId("filters").elements;

  function byId(id) {
    return document.getElementById(id);
  }

  function cloneOf(template) {
    return byId(template).content.firstElementChild.cloneNode(true);
  }

  function element(tag, text, className = "") {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = className;
    return made;
  }

  function number(value) {
    return value.toLocaleString("en");
  }

  function size([width, height]) {
    return `${width} × ${height}`;
  }

  function fillTerms(list, terms, className = "") {
    for (const [term, description] of terms) {
      const pair = element("div", "", className);
      pair.append(element("dt", term), element("dd", description));
      list.append(pair);
    }
  }

  function fillItems(list, texts) {
    list.append(...texts.map((text) => element("li", text)));
  }

  // ---- summary

  function showFigures() {
    const figures = [
      ["images", summary.images, true],
      ["trained views", summary.views, summary.views > summary.images],
      ["seen in an epoch", summary.seenInAnEpoch, summary.seenInAnEpoch > summary.images],
      ["with a mask", summary.withMask, summary.withMask > 0],
      ["with faces", summary.withFaces, summary.withFaces > 0],
    ];
    for (const [term, count, telling] of figures) if (telling) fillTerms(byId("figures"), [[term, number(count)]]);
    const troubles = [["with warnings", summary.withWarnings], ["files left out", summary.rejected.length]];
    for (const [term, count] of troubles) fillTerms(byId("figures"), [[term, number(count)]], count > 0 ? "marked" : "");
  }

  function showSizes() {
    const names = ["Smallest", "Median", "Largest"];
    fillTerms(byId("sizes"), [
      ...summary.sizes.map((pixels, index) => [names[index], size(pixels)]),
      ["Enlarged", number(summary.enlarged)],
      ["Duplicates", number(summary.identical.reduce((count, group) => count + group.length - 1, 0))],
    ]);
    fillItems(byId("identical"), summary.identical.map((group) => group.join(" = ")));
  }

  function showWords() {
    const names = ["Shortest", "Median", "Longest"];
    fillTerms(byId("words"), summary.captionWords.map((words, index) => [names[index], `${words} words`]));
  }

  function showBars(id) {
    for (const [label, count] of summary[id]) {
      const bar = cloneOf("bar");
      bar.querySelector(".label").textContent = label;
      bar.querySelector(".number").textContent = number(count);
      bar.querySelector(".track span").style.width = `${(100 * count) / summary.images}%`;
      byId(id).append(bar);
    }
  }

  function showNotes() {
    byId("generalWarnings").hidden = summary.warnings.length === 0;
    fillItems(byId("generalWarnings").querySelector("ul"), summary.warnings);
    byId("rejected").hidden = summary.rejected.length === 0;
    byId("rejected").open = summary.rejected.length <= 6;
    byId("rejected").querySelector("h2").textContent = `Files left out (${number(summary.rejected.length)})`;
    for (const { source, reason } of summary.rejected) {
      byId("rejected").querySelector("dl").append(element("dt", source), element("dd", reason));
    }
  }

  // ---- cards

  function cardOf(image, index) {
    const card = cloneOf("card");
    card.querySelector("h3 .number").textContent = index + 1;
    const name = card.querySelector(".name");
    name.textContent = image.name;
    name.href = image.file;
    name.title = "Open the training image";
    card.querySelector(".caption").textContent = image.caption;
    fillTerms(card.querySelector(".facts"), factsOf(image));
    placePicture(card, image);
    card.querySelector(".strip").append(...viewsOf(card, image));
    fillItems(card.querySelector(".warnings"), image.warnings);
    card.classList.toggle("warned", image.warnings.length > 0);
    return card;
  }

  function factsOf(image) {
    return [
      ["Original", size(image.size)],
      ["Bucket", image.bucket],
      ["Cropped by", image.cropSource],
      ["Caption from", image.captionSource],
      ["Concept", image.concept],
      ["Repeats", image.repeats],
      ["Weight", image.weight],
      ["Faces", image.faces.length],
      ["Views", 1 + image.augmentedViews],
    ];
  }

  function placePicture(card, image) {
    const picture = card.querySelector(".picture");
    const { width: across, height: down } = image.window;
    const [width, height] = image.whole ? image.size : [across, down];
    picture.style.width = `${Math.min(100, (100 * width) / height)}%`;
    picture.style.aspectRatio = `${width} / ${height}`;
    picture.querySelector("img").alt = image.name;
    pictureOf.set(picture.querySelector("img"), image.picture);
    const trained = image.whole ? image.window : { left: 0, top: 0, width, height };
    placeStencil(picture.querySelector(".rubylith").style, trained, width, height);
    if (image.whole) drawMarks(picture.querySelector(".marks"), image);
    card.querySelector(".partial").hidden = image.whole;
  }

  function placeStencil(style, trained, width, height) {
    style.left = `${(100 * trained.left) / width}%`;
    style.top = `${(100 * trained.top) / height}%`;
    style.width = `${(100 * trained.width) / width}%`;
    style.height = `${(100 * trained.height) / height}%`;
  }

  function drawMarks(marks, image) {
    const [width, height] = image.size;
    const { left, top, width: across, height: down } = image.window;
    marks.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const hole = `M${left} ${top}h${across}v${down}h${-across}z`;
    marks.querySelector(".outside").setAttribute("d", `M0 0h${width}v${height}h${-width}z${hole}`);
    for (const rectangle of marks.querySelectorAll(".crop rect")) placeRectangle(rectangle, image.window);
    for (const face of image.faces) marks.querySelector(".faces").append(...faceRectangles(face));
  }

  function faceRectangles(face) {
    return ["halo", "line"].map((className) => {
      const rectangle = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      rectangle.setAttribute("class", className);
      placeRectangle(rectangle, face);
      return rectangle;
    });
  }

  function placeRectangle(rectangle, { left, top, width, height }) {
    rectangle.setAttribute("x", left);
    rectangle.setAttribute("y", top);
    rectangle.setAttribute("width", width);
    rectangle.setAttribute("height", height);
  }

  function viewsOf(card, image) {
    const views = image.views.map((view) => viewLink(view, image));
    if (image.augmentedViews > views.length) {
      views.push(element("span", `and ${number(image.augmentedViews - views.length)} more`));
    }
    return image.mask ? [maskButton(card, image), ...views] : views;
  }

  function viewLink(view, image) {
    const link = cloneOf("viewLink");
    link.href = view.file;
    link.querySelector("span").textContent = view.kind;
    link.querySelector("img").alt = `Another view of ${image.name}`;
    pictureOf.set(link.querySelector("img"), view.picture);
    return link;
  }

  function maskButton(card, image) {
    const button = cloneOf("maskButton");
    button.title = "Show the mask: red areas have less weight in the loss";
    button.setAttribute("aria-label", `Mask of ${image.name}`);
    pictureOf.set(button.querySelector("img"), image.mask);
    card.querySelector(".rubylith").style.setProperty("--stencil", `url("${image.mask}")`);
    button.addEventListener("click", () => showMask(card, !card.classList.contains("masked")));
    return button;
  }

  function showMask(card, shown) {
    const button = card.querySelector("button.view");
    if (!button) return;
    card.classList.toggle("masked", shown);
    button.setAttribute("aria-pressed", shown);
  }

  function loadPictures(card) {
    for (const picture of card.querySelectorAll("img:not([src])")) picture.src = pictureOf.get(picture);
  }

  // ---- filters

  function searchable(text) {
    return text.normalize("NFC").toLowerCase();
  }

  function fillChoices(name, counts) {
    for (const [value, count] of counts) {
      const option = element("option", `${value} (${number(count)})`);
      option.value = value;
      filters[name].append(option);
    }
    filters[name].parentElement.hidden = counts.length < 2;
  }

  function isWanted(image, words) {
    return (
      ["concept", "bucket", "captionGroup"].every((name) => !filters[name].value || filters[name].value === image[name]) &&
      (!filters.onlyWarnings.checked || image.warnings.length > 0) &&
      words.every((word) => image.searched.includes(word))
    );
  }

  function applyFilters() {
    const words = searchable(filters.text.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    images.forEach((image, index) => {
      const wanted = isWanted(image, words);
      cards[index].hidden = !wanted;
      shown += wanted;
    });
    byId("count").textContent = `${number(shown)} of ${number(images.length)} images`;
    byId("reset").hidden = shown === images.length;
    byId("nothing").hidden = shown > 0;
  }

  function applyOverlays() {
    document.body.classList.toggle("without-crop", !filters.crop.checked);
    document.body.classList.toggle("without-faces", !filters.faces.checked);
  }

  // ---- the page

  document.title = byId("folder").textContent = summary.folder;
  showFigures();
  showSizes();
  showWords();
  ["buckets", "captionSources", "concepts"].forEach(showBars);
  showNotes();

  const cards = images.map(cardOf);
  byId("images").append(...cards);
  const nearby = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => loadPictures(entry.target)),
    { rootMargin: "1000px" },
  );
  cards.forEach((card) => nearby.observe(card));
  addEventListener("beforeprint", () => cards.forEach(loadPictures));

  for (const image of images) image.searched = searchable(`${image.name}\n${image.caption}`);
  fillChoices("concept", summary.concepts);
  fillChoices("bucket", summary.buckets);
  fillChoices("captionGroup", summary.captionSources);
  filters.faces.parentElement.hidden = summary.withFaces === 0;
  filters.masks.parentElement.hidden = summary.withMask === 0;
  filters.masks.addEventListener("change", () => cards.forEach((card) => showMask(card, filters.masks.checked)));
  byId("filters").addEventListener("input", () => { applyFilters(); applyOverlays(); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", (event) => {
    event.preventDefault(); // a plain reset would also restore the overlays
    filters.text.value = filters.concept.value = filters.bucket.value = filters.captionGroup.value = "";
    filters.onlyWarnings.checked = false;
    applyFilters();
    filters.text.focus();
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input[type=search], select")) return;
    event.preventDefault();
    filters.text.focus();
  });
  applyFilters();
  applyOverlays();
}
