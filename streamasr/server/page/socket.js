// One websocket that comes back: with the stream's id and the last seq, nothing is missed.

const PAUSES_MS = [200, 500, 1000, 2000, 4000];

export class Line {
  // path: of the websocket; query(): its fields; on: {message, state, ready}; lasting: comes back even after `end`
  constructor(path, query, token, on, lasting = false) {
    Object.assign(this, { path, query, token, on, lasting });
    this.id = "";
    this.after = 0;
    this.attempt = 0;
    this.over = false;
    this.open();
  }

  open() {
    const fields = new URLSearchParams(this.id ? { resume: this.id, after: String(this.after) } : this.query());
    if (this.token()) fields.set("token", this.token());
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}${this.path}?${fields}`);
    this.socket.binaryType = "arraybuffer";
    this.heard = false;
    this.socket.onmessage = (event) => this.take(JSON.parse(event.data));
    this.socket.onclose = (event) => this.lost(event);
  }

  take(message) {
    if (message.type === "ready") {
      this.id = message.id;
      this.after = message.seq;
      this.attempt = 0;
      this.heard = true;
      this.on.ready(message);
      return;
    }
    if (message.type === "error" && !this.heard) this.id = "";
    if (message.seq > this.after) this.after = message.seq;
    this.on.message(message);
    if (message.type === "end" && this.lasting) this.id = "";
    else if (message.type === "end") this.over = true;
  }

  lost(event) {
    if (this.over) return;
    if (event.code === 1008 && this.heard) {
      this.over = true;
      this.on.state("closed", event.reason);
      return;
    }
    this.on.state(this.heard || this.id ? "lost" : "refused", event.reason);
    const pause = PAUSES_MS[Math.min(this.attempt, PAUSES_MS.length - 1)];
    this.attempt += 1;
    this.timer = setTimeout(() => this.open(), pause);
  }

  send(data) {
    if (this.socket.readyState !== WebSocket.OPEN || !this.heard) return false;
    this.socket.send(data);
    return true;
  }

  retry() {
    clearTimeout(this.timer);
    if (this.socket.readyState > WebSocket.OPEN) this.open();
  }

  close() {
    this.over = true;
    clearTimeout(this.timer);
    this.socket.close();
  }
}
