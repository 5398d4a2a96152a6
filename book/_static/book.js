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
// On a phone the cells of a row stand under each other: each then says which column it is of.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.stacked")) {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, i) => { if (i && heads[i] && cell.textContent.trim()) cell.dataset.column = heads[i]; });
    }
  }
});
// Several plots side by side are too small to read on a phone. There they are shown larger, and pushed to the side.
const reachable = () => {
  for (const frame of document.querySelectorAll(".plots")) {
    if (frame.scrollWidth > frame.clientWidth) frame.setAttribute("tabindex", "0");
    else frame.removeAttribute("tabindex");
  }
};
document.addEventListener("DOMContentLoaded", () => {
  for (const plot of document.querySelectorAll(".cell_output figure.align-default > img, .cell_output > img")) {
    plot.decode().then(() => {
      if (plot.naturalWidth < 480 || plot.naturalWidth < 2.5 * plot.naturalHeight) return;
      const frame = document.createElement("div");
      frame.className = "plots";
      frame.setAttribute("role", "group");
      frame.setAttribute("aria-label", "Plots side by side");
      plot.replaceWith(frame);
      frame.append(plot);
      reachable();
    }).catch(() => {});
  }
});
window.addEventListener("resize", reachable);
