"use strict";
// One sound at a time. A line runs over its spectrogram while it plays; a click on the spectrogram goes there.
const players = [...document.querySelectorAll("[data-sound]")].map((card) => ({
  media: card.querySelector("video, audio"),
  button: card.querySelector("button"),
  mel: card.querySelector(".mel"),
  now: card.querySelector(".now"),
}));

function follow({ media, now }) {
  const share = media.duration ? (100 * media.currentTime) / media.duration : 0;
  now.setAttribute("x1", `${share}%`);
  now.setAttribute("x2", `${share}%`);
}

function run(player) {
  follow(player);
  if (!player.media.paused) requestAnimationFrame(() => run(player));
}

function toggle({ media }) {
  if (media.paused) media.play().catch(() => {});
  else media.pause();
}

players.filter(({ media, mel }) => media && mel).forEach((player) => {
  const { media, button, mel, now } = player;
  media.controls = media.tagName === "AUDIO";
  button.hidden = false;
  button.addEventListener("click", () => toggle(player));
  media.addEventListener("click", () => media.tagName === "VIDEO" && toggle(player));
  media.addEventListener("play", () => {
    players.filter((one) => one.media && one !== player).forEach((one) => one.media.pause());
    button.textContent = "Pause";
    now.setAttribute("visibility", "visible");
    run(player);
  });
  media.addEventListener("pause", () => { button.textContent = "Play"; });
  mel.addEventListener("click", (event) => {
    const box = mel.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    const go = () => { media.currentTime = share * media.duration; follow(player); };
    if (media.readyState) go();
    else media.addEventListener("loadedmetadata", go, { once: true });
    if (media.paused) toggle(player);
  });
});
// Where the drawing is wider than the screen, its middle is what there is to see.
document.querySelectorAll(".dag").forEach(({ parentElement: frame }) => {
  frame.scrollLeft = (frame.scrollWidth - frame.clientWidth) / 2;
});
