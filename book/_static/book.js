// Clips are quiet for readers who ask for less motion: they stay on their poster until played.
window.FontAwesomeConfig = { autoReplaceSvg: "nest" };
document.addEventListener("DOMContentLoaded", () => {
  if (!window.matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const clip of document.querySelectorAll("figure.clip video")) {
    clip.removeAttribute("autoplay");
    clip.pause();
  }
});
