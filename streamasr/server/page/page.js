import { Microphone } from "./microphone.js";
import { Line } from "./socket.js";
import { View } from "./view.js";

const byId = (id) => document.getElementById(id);
const views = { room: new View(byId("room")), own: new View(byId("own")) };
const contrasts = ["dark", "light", "yellow"];
let shown = "room";
let microphone = null;

// The token comes after # in the address, or is typed in; it stays in this tab.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
const token = () => sessionStorage.getItem("token") || "";

function say(text) {
  byId("status").textContent = text;
}

function ask(wanted) {
  byId("access").hidden = !wanted;
}

const room = new Line("/v1/captions", () => ({ history: "20" }), token, {
  ready: (message) => {
    ask(false);
    say(`Connected${message.model ? `: ${message.model}` : ""}.`);
  },
  message: (message) => {
    views.room.take(message);
    if (message.type === "overrun") say(`${message.seconds.toFixed(1)} s of sound were lost.`);
    if (message.type === "source_lost") say("The microphone of the room was lost; it is being looked for.");
    if (message.type === "source_resumed") say("The microphone of the room is back.");
    if (message.type === "end") say("The captions have ended.");
  },
  state: (state, reason) => {
    ask(state === "refused");
    say(state === "lost" ? "The connection was lost; trying again." : reason || "Not let in, or no server; trying again.");
  },
}, true);

byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value.trim());
  byId("token").value = "";
  room.retry();
});

function select(name) {
  shown = name;
  for (const other of ["room", "own"]) {
    byId(other).hidden = other !== name;
    byId(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    byId(`tab-${other}`).tabIndex = other === name ? 0 : -1;
  }
  byId("pause").setAttribute("aria-pressed", String(views[name].paused));
}

for (const name of ["room", "own"]) {
  byId(`tab-${name}`).addEventListener("click", () => select(name));
  byId(`tab-${name}`).addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = name === "room" ? "own" : "room";
    select(other);
    byId(`tab-${other}`).focus();
  });
}

function resize(factor) {
  const size = Math.min(9, Math.max(1, (Number(localStorage.getItem("size")) || 2.75) * factor));
  localStorage.setItem("size", String(size));
  document.documentElement.style.setProperty("--size", `${size}rem`);
}

function recolour(step) {
  const now = Math.max(0, contrasts.indexOf(localStorage.getItem("contrast")));
  const next = contrasts[(now + step) % contrasts.length];
  localStorage.setItem("contrast", next);
  document.documentElement.dataset.contrast = next;
}

resize(1);
recolour(0);
byId("smaller").addEventListener("click", () => resize(1 / 1.15));
byId("larger").addEventListener("click", () => resize(1.15));
byId("contrast").addEventListener("click", () => recolour(1));
byId("pause").addEventListener("click", () => {
  const view = views[shown];
  view.pause(!view.paused);
  byId("pause").setAttribute("aria-pressed", String(view.paused));
});
byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(views[shown].transcript.text());
    say("Copied.");
  } catch {
    say("The browser does not permit copying; download the text instead.");
  }
});

function download(ending, kind, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: kind }));
  link.download = `captions-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

byId("save-txt").addEventListener("click", () => download("txt", "text/plain", views[shown].transcript.text()));
byId("save-srt").addEventListener("click", () => download("srt", "application/x-subrip", views[shown].transcript.srt()));
byId("save-vtt").addEventListener("click", () => download("vtt", "text/vtt", views[shown].transcript.vtt()));

byId("record").addEventListener("click", async () => {
  const button = byId("record");
  if (microphone) {
    const stopped = microphone;
    microphone = null;
    button.textContent = "Start";
    button.setAttribute("aria-pressed", "false");
    await stopped.stop();
    return;
  }
  if (!navigator.mediaDevices) {
    say("The browser gives the microphone only to https pages and to localhost.");
    return;
  }
  microphone = new Microphone(token, {
    message: (message) => {
      views.own.take(message);
      if (message.type === "error") say(message.message);
    },
    state: (state, reason) => {
      say(state === "ready" ? "Listening to this microphone." : reason || "The connection was lost; trying again.");
    },
    level: (level) => {
      byId("level").value = Math.max(-60, level);
    },
  });
  button.textContent = "Stop";
  button.setAttribute("aria-pressed", "true");
  try {
    await microphone.start();
  } catch (error) {
    microphone = null;
    button.textContent = "Start";
    button.setAttribute("aria-pressed", "false");
    say(`The microphone cannot be used (${error.name}).`);
  }
});

// Keys, where no button or field has the focus: + - c p
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("button, input")) return;
  const pressed = { "+": "larger", "-": "smaller", c: "contrast", p: "pause" }[event.key];
  if (pressed) byId(pressed).click();
});
