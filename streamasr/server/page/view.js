// Captions on the screen: finals that stay, and the words in progress, committed and tentative told apart.

import { Transcript } from "./transcript.js";

const MOST_SHOWN = 500;

export class View {
  constructor(panel) {
    this.box = panel.querySelector(".captions");
    this.finals = panel.querySelector(".finals");
    this.committed = panel.querySelector(".committed");
    this.tentative = panel.querySelector(".tentative");
    this.transcript = new Transcript();
    this.waiting = [];
    this.paused = false;
  }

  take(message) {
    if (message.type === "final") this.transcript.add(message);
    if (this.paused) this.waiting.push(message);
    else this.show(message);
  }

  show(message) {
    const atEnd = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 120;
    if (message.type === "partial") {
      this.committed.textContent = message.committed;
      this.tentative.textContent = message.tentative;
    } else if (message.type === "final") {
      const line = document.createElement("p");
      line.textContent = message.text;
      this.finals.append(line);
      while (this.finals.childElementCount > MOST_SHOWN) this.finals.firstElementChild.remove();
      this.committed.textContent = this.tentative.textContent = "";
    }
    if (atEnd) this.box.scrollTop = this.box.scrollHeight;
  }

  pause(paused) {
    this.paused = paused;
    if (!paused) for (const message of this.waiting.splice(0)) this.show(message);
  }
}
