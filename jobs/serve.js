"use strict";
const by = (id) => document.getElementById(id);
const form = by("form");
const FIELDS = { size: "width", seconds: "frames", sampler: "steps", preset: "schedule-0" };
let schedules = [];
let following = "";
let url = "";
let typed = 0;

function request() {
  const body = { model: form.dataset.model, prompt: by("prompt").value.trim(), source: by("source").value };
  const number = (id) => (by(id).value === "" ? undefined : Number(by(id).value));
  body.seed = number("seed");
  body.motion = number("motion");
  body.size = `${by("width").value || 0}x${by("height").value || 0}`;
  body.frames = number("frames");
  body.steps = number("steps");
  body.negative_prompt = by("negative_prompt").value.trim() || undefined;
  return body;
}

// Resolves with what is answered, or throws an error that has the field it is about.
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer.");
  }
  const answer = await response.json().catch(() => ({ error: { message: `The server answered ${response.status}.` } }));
  if (!response.ok) {
    const again = response.headers.get("retry-after");
    const error = new Error(answer.error.message + (again ? ` (in some ${again} s)` : ""));
    error.param = answer.error.param;
    error.status = response.status;
    throw error;
  }
  return answer;
}

const post = (path, body) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

function describe(field, change) {
  const ids = (field.getAttribute("aria-describedby") || "").split(" ").filter(Boolean);
  field.setAttribute("aria-describedby", change(ids).join(" "));
}

// Told beside the button, and at the field that it is about: on a phone the one is far from the other.
function showError(error) {
  document.querySelectorAll("[aria-invalid]").forEach((one) => {
    one.removeAttribute("aria-invalid");
    describe(one, (ids) => ids.filter((id) => id !== "at-field"));
  });
  document.querySelectorAll("#at-field").forEach((one) => one.remove());
  by("error").textContent = error ? error.message : "";
  const field = error && error.param && by(FIELDS[error.param] || error.param);
  if (field) {
    const said = text(field.closest(".field, .choice"), "small", error.message);
    said.id = "at-field";
    said.className = "bad";
    describe(field, (ids) => [...ids, "at-field"]);
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }
}

function text(parent, kind, content) {
  const made = document.createElement(kind);
  made.textContent = content;
  parent.append(made);
  return made;
}

async function showCosts() {
  const own = ++typed;
  const { steps, ...body } = request();
  let answer;
  try {
    answer = await post("cost", steps === undefined ? body : { ...body, steps });
  } catch (error) {
    answer = { schedules: schedules.map((one) => ({ ...one, error: error.message })) };
  }
  if (own !== typed) return; // A later one is under way.
  schedules = answer.schedules;
  schedules.forEach((one, index) => {
    const where = by(`cost-${index}`);
    where.replaceChildren();
    if (one.error) {
      text(where, "span", one.error).className = "warn";
      return;
    }
    const share = one.relative < 0.0995 ? (100 * one.relative).toFixed(1) : Math.round(100 * one.relative);
    text(where, "b", `${share} %`);
    const scales = one.scales.map((scale) => `${scale.evaluations} at ${scale.patch.join("×")}`).join(", ");
    where.append(` of full cost, ${one.cost} in ${one.steps} steps; evaluations: ${scales}`);
    const bar = text(where, "span", "");
    bar.className = "bar";
    bar.style.width = `${Math.min(100, 100 * one.relative)}%`;
  });
}

function showLength() {
  const frames = Number(by("frames").value);
  const fps = Number(by("length").dataset.fps);
  by("length").textContent = frames > 1 ? `${Number((frames / fps).toFixed(2))} s at ${fps} frames per second` : "A single picture";
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function showMaking(on) {
  by("making").hidden = !on;
  form.querySelector("[type=submit]").disabled = on;
}

async function follow(id) {
  following = id;
  history.replaceState(null, "", `#${id}`);
  by("clip").hidden = true;
  by("copied").textContent = "";
  showMaking(true);
  try {
    for (;;) {
      const job = await ask(`v1/videos/${id}`);
      if (following !== id) return;
      by("progress").value = job.progress;
      if (job.status === "completed") return await showClip(job);
      if (job.status === "failed") throw new Error(job.error.message);
      const { steps_done: done, steps: total } = job;
      const waits = job.ahead ? `Waiting: ${job.ahead} before it.` : "Waiting for its turn.";
      const said = job.status === "queued" ? waits : done && done === total ? "Decoding." : done ? `Step ${done} of ${total}.` : "Starting.";
      if (by("status").textContent !== said) by("status").textContent = said;
      await pause(500);
    }
  } catch (error) {
    if (following !== id) return;
    by("status").textContent = error.status === 404 ? "That clip is gone." : "No clip.";
    if (error.status !== 404) showError(error);
    following = "";
  } finally {
    if (following === id || !following) showMaking(false);
  }
}

// JSON with one field a line.
function lines(fields, indent = "  ") {
  const one = ([name, value]) => {
    const inner = value && typeof value === "object" && !Array.isArray(value);
    return `${indent}${JSON.stringify(name)}: ${inner ? lines(value, `${indent}  `) : JSON.stringify(value)}`;
  };
  return `{\n${Object.entries(fields).map(one).join(",\n")}\n${indent.slice(2)}}`;
}

async function showClip(job) {
  const response = await fetch(`v1/videos/${job.id}/content`);
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  if (url) URL.revokeObjectURL(url);
  url = URL.createObjectURL(await response.blob());
  by("video").src = url;
  by("video").setAttribute("aria-label", `Clip: ${job.prompt}`);
  by("video").play().catch(() => {});
  by("download").href = url;
  by("download").download = `${job.id}.mp4`;
  by("facts").textContent = `Seed ${job.request.seed}, ${job.size}, ${job.request.frames} frames, ${job.seconds} s, source ${job.request.source}: ${job.prompt}`;
  by("command").textContent = job.command || "";
  by("command-part").hidden = !job.command;
  by("no-command").hidden = Boolean(job.command);
  by("json").textContent = lines(job.request);
  by("clip").hidden = false;
  by("status").textContent = "The clip is made.";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  showError(null);
  const chosen = Number(form.querySelector("[name=schedule]:checked").value);
  try {
    if (!by("prompt").value.trim()) throw Object.assign(new Error("Say what the clip shows."), { param: "prompt" });
    const extra = schedules[chosen] ? schedules[chosen].fields : {};
    const job = await post("v1/videos", { ...request(), ...extra });
    by("status").scrollIntoView({ block: "nearest" });
    await follow(job.id);
  } catch (error) {
    showError(error);
  }
});

by("cancel").addEventListener("click", async () => {
  const id = following;
  following = "";
  showMaking(false);
  history.replaceState(null, "", location.pathname);
  await ask(`v1/videos/${id}`, { method: "DELETE" }).catch(showError);
  by("status").textContent = "Cancelled.";
  form.querySelector("[type=submit]").focus();
});

by("draw").addEventListener("click", () => {
  by("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
});

document.querySelectorAll("[data-copy]").forEach((button) =>
  button.addEventListener("click", async () => {
    const source = by(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      by("copied").textContent = "Copied.";
    } catch {
      // Without HTTPS a browser lets nobody write there, but anybody select.
      getSelection().selectAllChildren(source);
      by("copied").textContent = "Selected: copy it with the keyboard or the menu.";
    }
  }),
);

let timer = 0;
form.addEventListener("input", () => {
  showLength();
  clearTimeout(timer);
  timer = setTimeout(showCosts, 250);
});
showLength();
showCosts();
const [, earlier] = location.hash.match(/^#(video_[0-9a-f]{32})$/) || [];
if (earlier) follow(earlier);
