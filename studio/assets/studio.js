/* Names for controls of Gradio's that have none for screen readers: the button that adds files to an upload box is named
   by a key of its translations, the one around a picture and the open list of choices not at all. */
const NAMES = { "common.upload": "Add files" };

function nameButtons() {
  for (const button of document.querySelectorAll("button[aria-label], .image-container button")) {
    const label = button.getAttribute("aria-label");
    const block = button.closest(".block")?.querySelector("[data-testid=block-label]");
    const name = NAMES[label] ?? label ?? block?.textContent.trim();
    if (!name || name === label) continue;
    button.setAttribute("aria-label", name);
    button.title = name;
  }
}

function nameLists() {
  for (const list of document.querySelectorAll("[role=listbox]:not([aria-label])")) {
    const name = list.closest(".block")?.querySelector("[data-testid=block-info]")?.textContent.trim();
    if (name) list.setAttribute("aria-label", name);
  }
}

function nameControls() {
  nameButtons();
  nameLists();
}

new MutationObserver(nameControls).observe(document.documentElement, {
  childList: true,
  subtree: true,
  attributeFilter: ["aria-label"],
});
