// The part of the page that changes is fetched again every few seconds, but not under somebody's fingers.

const now = document.getElementById("now");
const live = document.getElementById("live");

setInterval(async () => {
  if (document.visibilityState === "hidden" || now.contains(document.activeElement)) return;
  try {
    const response = await fetch(`${location.pathname.replace(/\/+$/, "")}/live`);
    if (response.ok) now.innerHTML = await response.text(); // our own template, escaped by the server
  } catch { /* the server may be restarting: the page keeps what it has */ }
}, 5000);

now.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    live.textContent = "Link copied.";
    button.firstChild.textContent = "Copied";
  } catch {
    const range = document.createRange();
    range.selectNodeContents(button.previousElementSibling);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    live.textContent = "Link selected.";
  }
});
