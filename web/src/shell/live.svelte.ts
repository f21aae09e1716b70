// What readers of the screen are told without looking: one polite region, at most every five seconds.

const PAUSE = 5000;

let text = $state("");
let last = 0;
let waiting: ReturnType<typeof setTimeout> | undefined;

export const live = {
  get text(): string {
    return text;
  },
};

/** Say something. What comes within five seconds of the last waits; of several that wait, the newest is said. `now`: do
 * not wait, as for the end of a job. */
export function say(words: string, now = false): void {
  clearTimeout(waiting);
  const pause = now ? 0 : Math.max(last + PAUSE - Date.now(), 0);
  waiting = setTimeout(() => {
    last = Date.now();
    text = words;
  }, pause);
}
