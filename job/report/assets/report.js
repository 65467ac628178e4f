// Builds the page from its embedded JSON. Prompts and captions are user text, and are only set as textContent.
{
  const data = JSON.parse(byId("data").textContent);
  const evaluation = data.evaluation;

  function byId(id) {
    return document.getElementById(id);
  }

  function element(tag, text = "", className = "") {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = className;
    return made;
  }

  function picture(source, alt) {
    const made = document.createElement("img");
    made.src = source;
    made.alt = alt;
    made.decoding = "async";
    return made;
  }

  function fillTerms(list, terms) {
    for (const [term, description, className = ""] of terms) {
      const pair = element("div", "", className);
      pair.append(element("dt", term), element("dd", description));
      list.append(pair);
    }
  }

  function duration(exact) {
    if (exact < 9.95) return `${exact.toFixed(1)} s`;
    const seconds = Math.round(exact);
    if (seconds < 60) return `${seconds} s`;
    const minutes = Math.floor(seconds / 60);
    if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
    return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }

  function percent(share) {
    return `${Math.round(100 * share)}%`;
  }

  function decimals(value, count = 2) {
    return value === null || value === undefined ? "–" : value.toFixed(count).replace("-", "−");
  }

  // ---- the verdict

  function showVerdict() {
    const words = data.triggers.join(", ") || "LoRA";
    document.title = `${words}: training report`;
    byId("kicker").textContent = `Training report. ${words} on ${data.base}`;
    const verdict = evaluation ? evaluation.verdict : data.ending || { headline: "Trained and verified; not evaluated.", reasons: [
      data.restoration ? restorationSaid() :
      "No evaluation of samples: look at the images below. Set evaluate: true for a verdict."] };
    const [first, ...rest] = verdict.headline.split(/(?<=[.;]) /);
    byId("headline").append(element("strong", first), rest.length ? ` ${rest.join(" ")}` : "");
    byId("reasons").append(...verdict.reasons.map((reason) => element("li", reason)));
    fillTerms(byId("figures"), figures());
  }

  function restorationSaid() {
    const { pictures, held_out: heldOut } = data.restoration;
    return `PSNR is the mean of ${pictures} reconstructed images that are ${heldOut ? "not " : ""}trained.`;
  }

  function figures() {
    const time = [data.resumedAt ? `since step ${data.resumedAt.toLocaleString("en")}, resumed` : "in total", duration(data.seconds)];
    if (data.restoration) return [
      ["PSNR before, dB", decimals(data.restoration.psnr_before, 1)],
      ["PSNR after, dB", decimals(data.restoration.psnr_after, 1), "marked"],
      ["steps", data.steps.toLocaleString("en")], ["training images", data.imageCount], time,
    ];
    if (!evaluation) return [["steps", data.steps.toLocaleString("en")], ["training images", data.imageCount], time];
    const { chosen } = evaluation;
    return [
      ["likeness", percent(chosen.relative.fidelity)],
      ["prompts followed", percent(chosen.relative.following)],
      ["rest kept", percent(chosen.relative.kept)],
      [`step of ${data.steps}, returned`, chosen.step.toLocaleString("en"), "marked"],
      ["recommended scale", String(chosen.scale), "marked"],
      time,
    ];
  }

  // ---- before and after

  function showCompare() {
    const steered = data.conditions.length > 0;
    const restored = data.originals.length > 0;
    const columns = [steered ? ["condition", data.conditions] : ["before", data.before], ["after", data.after]];
    if (restored) columns.unshift(["original", data.originals]);
    const count = Math.min(...columns.map(([, sources]) => sources.length));
    byId("compare").hidden = count === 0;
    const several = !steered && !restored && new Set(data.prompts).size > 1;
    if (steered) byId("compareTitle").textContent = "Conditions and samples";
    const shown = several ? "Each prompt" : `“${data.prompts[0]}”`;
    byId("comparePrompt").textContent = steered
      ? "Conditions of the ControlNet, and the generated images."
      : restored ? "The images, and their reconstructions before and after the training, with the same seeds."
      : `${shown}, the same seeds without and with the LoRA.${data.prompts.length > count ? ` The first ${count} of ${data.prompts.length} images.` : ""}`;
    let row = byId("comparePictures");
    for (let index = 0; index < count; index++) {
      if (several && data.prompts[index] !== data.prompts[index - 1]) {
        row = element("div", "", "compare");
        byId("compare").append(element("h3", `“${data.prompts[index]}”`), row);
      }
      const pair = element("div", "", "pair");
      for (const [when, sources] of columns) {
        const figure = element("figure", "", when);
        figure.append(picture(sources[index], `sample ${index + 1}, ${when}`), element("figcaption", when));
        pair.append(figure);
      }
      row.append(pair);
    }
  }

  // ---- samples by step

  function showSteps() {
    const { prompts, frames } = data.frames;
    byId("through").hidden = frames.length < 2;
    if (frames.length < 2) return;
    const onlyPrompt = new Set(prompts).size === 1;
    if (onlyPrompt) byId("stepsPrompt").textContent = `“${prompts[0]}”. `;
    const stills = frames[0].pictures.map((source, index) => {
      const item = element("li");
      item.append(picture(source, prompts[index] ?? ""));
      if (!onlyPrompt) item.append(element("p", prompts[index] ?? ""));
      byId("stills").append(item);
      return item.firstChild;
    });
    const slider = byId("slider");
    slider.max = frames.length - 1;
    const returned = evaluation ? frames.findIndex((frame) => frame.step === evaluation.chosen.step) : -1;
    slider.value = returned >= 0 ? returned : frames.length - 1;

    const nameOf = (step) => (step === 0 ? "base model" : `step ${step.toLocaleString("en")}`);
    const show = () => {
      const frame = frames[slider.value];
      stills.forEach((still, index) => { still.src = frame.pictures[index]; });
      byId("stepShown").replaceChildren(element("b", nameOf(frame.step)));
      slider.setAttribute("aria-valuetext", nameOf(frame.step));
    };
    notches(frames, returned);
    slider.addEventListener("input", () => { stop(); show(); });

    let timer = 0;
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      byId("play").textContent = "Play";
      byId("play").setAttribute("aria-pressed", "false");
    };
    byId("play").addEventListener("click", () => {
      if (timer) return stop();
      slider.value = 0;
      show();
      byId("play").textContent = "Stop";
      byId("play").setAttribute("aria-pressed", "true");
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) === frames.length - 1) stop();
      }, 600);
    });
    show();
  }

  function notches(frames, returned) {
    const last = frames.length - 1;
    const shown = new Set([0, last]);
    if (returned >= 0) {
      shown.add(returned);
      for (const end of [0, last]) if (end !== returned && Math.abs(end - returned) / last < 0.12) shown.delete(end);
    }
    for (const index of shown) {
      const notch = element("span", frames[index].step === 0 ? "base" : frames[index].step, index === returned ? "returned" : "");
      notch.style.left = `${(100 * index) / last}%`;
      notch.style.transform = `translateX(-${(100 * index) / last}%)`;
      byId("notches").append(notch);
    }
  }

  // ---- measurements

  const COLUMNS = [
    ["quality", (one) => one.relative?.quality],
    ["likeness", (one) => one.relative?.fidelity],
    ["prompts", (one) => one.relative?.following],
    ["rest kept", (one) => one.relative?.kept],
    ["copied", (one) => one.scores.copied],
    ["DINO-I", (one) => one.scores.dino_i],
    ["DINO-I masked", (one) => one.scores.masked_dino_i],
    ["CLIP-I", (one) => one.scores.clip_i],
    ["CLIP-I masked", (one) => one.scores.masked_clip_i],
    ["CLIP-T", (one) => one.scores.clip_t],
    ["diversity", (one) => one.scores.diversity],
    ["face", (one) => one.scores.face],
  ];

  function showScores() {
    byId("scores").hidden = !evaluation;
    if (!evaluation) return;
    byId("measuredBy").textContent = evaluation.measured_by;
    const rows = [{ scores: evaluation.base, name: "base model" }, ...evaluation.candidates];
    const columns = COLUMNS.filter(([, value]) => rows.some((row) => value(row) !== null && value(row) !== undefined));
    const head = element("tr");
    head.append(...["step", "scale", ...columns.map(([name]) => name)].map((name) => element("th", name)));
    head.querySelectorAll("th").forEach((cell) => { cell.scope = "col"; });
    const body = document.createElement("tbody");
    for (const row of rows) {
      const chosen = row.step === evaluation.chosen.step && row.scale === evaluation.chosen.scale;
      const line = element("tr", "", chosen ? "returned" : row.name ? "base" : "");
      line.append(element("td", row.name ?? row.step), element("td", row.scale ?? ""));
      line.append(...columns.map(([, value]) => element("td", decimals(value(row)))));
      body.append(line);
    }
    const top = document.createElement("thead");
    top.append(head);
    byId("candidates").append(top, body);
  }

  // ---- usage

  function showRecipes() {
    const tabs = data.recipes.map((recipe, index) => {
      const tab = element("button", recipe.tool);
      tab.type = "button";
      tab.id = `tab-${index}`;
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", `panel-${index}`);
      byId("tabs").append(tab);
      byId("panels").append(panelOf(recipe, index));
      return tab;
    });
    const choose = (chosen) => tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", index === chosen);
      tab.tabIndex = index === chosen ? 0 : -1;
      byId(`panel-${index}`).hidden = index !== chosen;
    });
    tabs.forEach((tab, index) => {
      tab.addEventListener("click", () => choose(index));
      tab.addEventListener("keydown", (event) => {
        const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
        if (next === undefined) return;
        event.preventDefault();
        const other = (next + tabs.length) % tabs.length;
        choose(other);
        tabs[other].focus();
      });
    });
    choose(0);
  }

  function panelOf(recipe, index) {
    const panel = element("div", "", "panel");
    panel.id = `panel-${index}`;
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", `tab-${index}`);
    const code = element("div", "", "code");
    const text = document.createElement("pre");
    text.append(element("code", recipe.text));
    code.append(text);
    if (navigator.clipboard) code.append(copyButton(recipe.text));
    panel.append(element("p", recipe.note), code);
    return panel;
  }

  function copyButton(text) {
    const button = element("button", "Copy");
    button.type = "button";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select and copy";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    return button;
  }

  // ---- images, warnings, time, settings

  function showImages() {
    const shown = data.images.length;
    byId("imageCount").textContent = shown < data.imageCount ? `The first ${shown} of ${data.imageCount}.` : `${data.imageCount} in all.`;
    byId("gallery").href = data.gallery;
    for (const image of data.images) {
      const item = element("li");
      item.append(picture(image.picture, image.name), element("p", image.caption));
      byId("images").append(item);
    }
  }

  function showWarnings() {
    byId("warned").hidden = data.warnings.length + data.rejected.length === 0;
    byId("warnings").append(...data.warnings.map((warning) => element("li", warning)));
    fillTerms(byId("rejected"), data.rejected.map(({ source, reason }) => [`not used: ${source}`, reason]));
  }

  function showTime() {
    for (const [name, seconds] of Object.entries(data.phases)) {
      const bar = element("li");
      const track = element("span", "", "track");
      const share = element("span");
      share.style.width = `${Math.min(100, (100 * seconds) / data.seconds)}%`;
      track.append(share);
      bar.append(element("span", name, "label"), element("span", duration(seconds), "number"), track);
      byId("phases").append(bar);
    }
  }

  function showSettings() {
    fillTerms(byId("changed"), data.settings.filter((one) => one.changed).map((one) => [one.name, one.value]));
    fillTerms(byId("settings"), data.settings.map((one) => [one.name, one.value, one.changed ? "changed" : ""]));
    const predicted = data.plan ? { predicted: data.plan } : {};
    const environment = { ...predicted, ...data.machine, ...data.versions };
    fillTerms(byId("environment"), Object.entries(environment).map(([name, value]) => [name, String(value ?? "–")]));
    fillTerms(byId("environment"), [["file against model", `relative difference ${data.verification.difference.toExponential(1)}`]]);
  }

  // ---- the page

  showVerdict();
  showCompare();
  showSteps();
  showScores();
  showRecipes();
  showImages();
  showWarnings();
  showTime();
  showSettings();
  byId("curves").hidden = document.querySelector(".chart") === null;
}
