// Clips are quiet for readers who ask for less motion: they stay on their poster until played.
window.FontAwesomeConfig = { autoReplaceSvg: "nest" };
document.addEventListener("DOMContentLoaded", () => {
  if (!window.matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const clip of document.querySelectorAll("figure.clip video")) {
    clip.removeAttribute("autoplay");
    clip.pause();
  }
});
// The theme lets keys into boxes that scroll when the window changes; what is unfolded begins to scroll, too.
document.addEventListener("click", (event) => {
  if (event.target.closest(".admonition-title, summary")) window.dispatchEvent(new Event("resize"));
});
