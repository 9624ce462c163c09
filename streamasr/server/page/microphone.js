// The browser's own microphone, captioned: what was sent and not yet acknowledged is kept, and sent again after a
// lost connection.

import { Line } from "./socket.js";

const BLOCK_S = 0.1;
const KEPT_S = 60;

export class Microphone {
  // on: {message, state, level}
  constructor(token, on) {
    Object.assign(this, { token, on });
    this.kept = []; // {start, pcm}, start in frames
    this.frames = 0;
  }

  async start() {
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, autoGainControl: true, noiseSuppression: false },
    });
    try {
      await this.listen(new AudioContext({ sampleRate: 16000 })); // the browser resamples
    } catch {
      await this.listen(new AudioContext()); // it will not: the server resamples
    }
    this.line = new Line(
      "/v1/stream",
      () => ({ encoding: "s16le", rate: String(this.context.sampleRate) }),
      this.token,
      {
        ready: (message) => this.resend(message.received),
        message: (message) => this.take(message),
        state: this.on.state,
      },
    );
  }

  async listen(context) {
    this.context = context;
    await context.audioWorklet.addModule("/worklet.js");
    await context.resume();
    const source = context.createMediaStreamSource(this.stream);
    const samples = Math.round(context.sampleRate * BLOCK_S);
    this.node = new AudioWorkletNode(context, "blocks", { numberOfOutputs: 0, processorOptions: { samples } });
    this.node.port.onmessage = (event) => this.block(event.data);
    source.connect(this.node);
  }

  block({ pcm, level }) {
    this.on.level(level);
    this.kept.push({ start: this.frames, pcm });
    this.frames += pcm.byteLength / 2;
    while (this.kept.length && this.frames - this.kept[0].start > KEPT_S * this.context.sampleRate) this.kept.shift();
    if (this.line) this.line.send(pcm);
  }

  resend(received) {
    this.forget(received);
    for (const { start, pcm } of this.kept) {
      const known = Math.max(0, received - start);
      this.line.send(known ? pcm.slice(2 * known) : pcm);
    }
    this.on.state("ready", "");
  }

  forget(received) {
    while (this.kept.length && this.kept[0].start + this.kept[0].pcm.byteLength / 2 <= received) this.kept.shift();
  }

  take(message) {
    if (message.type === "progress") this.forget(message.received);
    this.on.message(message);
  }

  async stop() {
    this.node.port.onmessage = null;
    for (const track of this.stream.getTracks()) track.stop();
    await this.context.close();
    if (this.line && !this.line.send(JSON.stringify({ type: "close" }))) this.line.close();
    this.on.level(-60);
  }
}
