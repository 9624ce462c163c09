// The microphone's samples as 16-bit blocks, each with its level in dB.

class Blocks extends AudioWorkletProcessor {
  constructor(options) {
    super();
    this.block = new Int16Array(options.processorOptions.samples);
    this.count = 0;
    this.squares = 0;
  }

  process(inputs) {
    const channel = inputs[0][0];
    if (!channel) return true;
    for (const sample of channel) {
      const limited = Math.max(-1, Math.min(1, sample));
      this.squares += limited * limited;
      this.block[this.count] = Math.round(limited * 32767);
      this.count += 1;
      if (this.count === this.block.length) {
        const level = 10 * Math.log10(Math.max(this.squares / this.count, 1e-12));
        const pcm = this.block.slice().buffer;
        this.port.postMessage({ pcm, level }, [pcm]);
        this.count = 0;
        this.squares = 0;
      }
    }
    return true;
  }
}

registerProcessor("blocks", Blocks);
