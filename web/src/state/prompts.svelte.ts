// Prompts that were drawn, newest first: kept by the browser, so that none is lost when another is written over it.

import { jobs } from "./jobs.svelte";
import { keep as keepText, keptJson } from "./store";

export interface Prompt {
  prompt: string;
  negative: string;
}

const PLACE = "gesso.prompts";
const FORGOTTEN = "gesso.prompts-forgotten"; // those of jobs that the server still has
const MOST = 300;

function load<T>(place: string, isOne: (one: unknown) => one is T): T[] {
  const saved = keptJson(place, []);
  return Array.isArray(saved) ? saved.filter(isOne) : [];
}
const isPrompt = (one: unknown): one is Prompt =>
  one !== null &&
  typeof one === "object" &&
  typeof (one as Prompt).prompt === "string" &&
  typeof (one as Prompt).negative === "string";
const isText = (one: unknown): one is string => typeof one === "string";

let own = $state.raw(load(PLACE, isPrompt));
let forgotten = $state.raw(load(FORGOTTEN, isText));
window.addEventListener("storage", (event) => {
  if (event.key === PLACE) own = load(PLACE, isPrompt);
  if (event.key === FORGOTTEN) forgotten = load(FORGOTTEN, isText);
});

function keep(next: Prompt[], nextForgotten = forgotten): void {
  own = next.slice(0, MOST);
  forgotten = nextForgotten.slice(0, MOST);
  keepText(PLACE, JSON.stringify(own));
  keepText(FORGOTTEN, JSON.stringify(forgotten));
}

// Behind those that were drawn in this browser stand those of jobs from elsewhere.
const list = $derived.by(() => {
  const known = new Set([...own.map((one) => one.prompt), ...forgotten]);
  const others: Prompt[] = [];
  for (const { job } of jobs.list) {
    const { prompt = "", negative_prompt: negative = "" } = job.request;
    if (job.batch !== null || !prompt.trim() || known.has(prompt)) continue;
    known.add(prompt);
    others.push({ prompt, negative: negative ?? "" });
  }
  return [...own, ...others];
});

export const prompts = {
  get list(): Prompt[] {
    return list;
  },
  remember(prompt: string, negative: string): void {
    if (!prompt.trim()) return;
    const others = own.filter((one) => one.prompt !== prompt);
    keep(
      [{ prompt, negative }, ...others],
      forgotten.filter((one) => one !== prompt),
    );
  },
  forget(prompt: string): void {
    keep(
      own.filter((one) => one.prompt !== prompt),
      [prompt, ...forgotten],
    );
  },
};
