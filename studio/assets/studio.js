/* Names for buttons of Gradio's that have none for screen readers: the one that adds files to an upload box is named by
   a key of its translations, and the one around a picture not at all. */
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

new MutationObserver(nameButtons).observe(document.documentElement, {
  childList: true,
  subtree: true,
  attributeFilter: ["aria-label"],
});
