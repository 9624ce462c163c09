// What was said, and how it is written to files. Long utterances become several cues, cut at words.

const LINE_LETTERS = 42;
const CUE_LETTERS = 2 * LINE_LETTERS;
const CUE_LONGEST_S = 7;

export class Transcript {
  constructor() {
    this.finals = [];
  }

  add(final) {
    this.finals.push(final);
  }

  text() {
    return this.finals.map((final) => final.text + "\n").join("");
  }

  srt() {
    return this.cues()
      .map((cue, index) => `${index + 1}\n${clock(cue.start, ",")} --> ${clock(cue.end, ",")}\n${cue.lines.join("\n")}\n\n`)
      .join("");
  }

  vtt() {
    const escape = (line) => line.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    return "WEBVTT\n\n" + this.cues()
      .map((cue) => `${clock(cue.start, ".")} --> ${clock(cue.end, ".")}\n${cue.lines.map(escape).join("\n")}\n\n`)
      .join("");
  }

  cues() {
    const cues = [];
    let before = 0;
    for (const final of this.finals) {
      for (const words of groups(final)) {
        const start = Math.max(before, words[0].start_s);
        const end = Math.max(start + 0.5, words[words.length - 1].end_s);
        cues.push({ start, end, lines: lines(words.map((word) => word.text)) });
        before = end;
      }
    }
    return cues;
  }
}

function groups(final) {
  const words = final.words.length ? final.words : [{ text: final.text, start_s: final.start_s, end_s: final.end_s }];
  const found = [];
  let letters = Infinity;
  for (const word of words) {
    const group = found[found.length - 1];
    letters += word.text.length + 1;
    if (!group || letters > CUE_LETTERS || word.end_s - group[0].start_s > CUE_LONGEST_S) {
      found.push([word]);
      letters = word.text.length;
    } else {
      group.push(word);
    }
  }
  return found;
}

function lines(words) {
  const whole = words.join(" ");
  if (whole.length <= LINE_LETTERS) return [whole];
  let best = 1;
  const longer = (count) => Math.max(words.slice(0, count).join(" ").length, words.slice(count).join(" ").length);
  for (let count = 1; count < words.length; count += 1) {
    if (longer(count) < longer(best)) best = count;
  }
  return words.length > 1 ? [words.slice(0, best).join(" "), words.slice(best).join(" ")] : [whole];
}

function clock(seconds, point) {
  const milliseconds = Math.round(seconds * 1000);
  const part = (value, length = 2) => String(Math.floor(value)).padStart(length, "0");
  return `${part(milliseconds / 3600000)}:${part((milliseconds / 60000) % 60)}:${part((milliseconds / 1000) % 60)}${point}${part(milliseconds % 1000, 3)}`;
}
