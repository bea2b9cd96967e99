"use strict";
// Clips of a row play in step: all start together, none runs ahead, and all begin again when the last has ended.
const rows = [...document.querySelectorAll("[data-row]")].map((row) => ({
  videos: [...row.querySelectorAll("video")],
  button: row.querySelector("button"),
  playing: false,
  timer: 0,
}));
const all = document.querySelector("[data-all]");

function start(row) {
  if (!row.videos.length) return;
  row.playing = true;
  row.videos.forEach((video) => { video.currentTime = 0; });
  Promise.all(row.videos.map((video) => video.play())).catch(() => stop(row));
  row.timer = row.timer || setInterval(() => keepStep(row), 100);
  label(row);
}

function stop(row) {
  row.playing = false;
  clearInterval(row.timer);
  row.timer = 0;
  row.videos.forEach((video) => video.pause());
  label(row);
}

function keepStep(row) {
  if (row.videos.every((video) => video.ended)) return start(row);
  const running = row.videos.filter((video) => !video.ended);
  const behind = Math.min(...running.map((video) => video.currentTime));
  running.forEach((video) => {
    if (video.currentTime - behind > 0.06) video.currentTime = behind;
  });
}

function label(row) {
  row.button.textContent = row.playing ? "Pause" : "Play";
  if (all) all.textContent = rows.some((one) => one.playing) ? "Pause all" : "Play all";
}

rows.forEach((row) => {
  row.button.hidden = !row.videos.length;
  row.videos.forEach((video) => {
    video.controls = false;
    video.addEventListener("click", () => (row.playing ? stop(row) : start(row)));
  });
  row.button.addEventListener("click", () => (row.playing ? stop(row) : start(row)));
});
if (all) {
  all.hidden = false;
  all.addEventListener("click", () => {
    const stopping = rows.some((row) => row.playing);
    rows.forEach((row) => (stopping ? stop(row) : start(row)));
  });
}
// Where the drawing is wider than the screen, its middle is what there is to see.
document.querySelectorAll(".dag").forEach(({ parentElement: frame }) => {
  frame.scrollLeft = (frame.scrollWidth - frame.clientWidth) / 2;
});
