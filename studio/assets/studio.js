/* The button of Gradio's upload box that adds files is named by a key of its translations. */
const NAMES = { "common.upload": "Add files" };

function nameButtons() {
  for (const [key, name] of Object.entries(NAMES)) {
    for (const button of document.querySelectorAll(`button[aria-label="${key}"]`)) {
      button.setAttribute("aria-label", name);
      button.title = name;
    }
  }
}

new MutationObserver(nameButtons).observe(document.documentElement, {
  childList: true,
  subtree: true,
  attributeFilter: ["aria-label"],
});
