// How the server reads what is written, a moment after it was: tokens, unknown words, the language; and what may be
// completed with the model that is chosen.

import { api, data } from "../api";
import type { components } from "../api/schema";
import type { Completion } from "./completing";

export type Reading = components["schemas"]["PromptReadingJson"];
type Field = components["schemas"]["PromptField"];

const PAUSE = 250; // milliseconds without a key before it is asked

/** Read prompts while they are written: call it in a component's script. `asked` gives what decides the reading. */
export function useReading(asked: () => components["schemas"]["PromptBody"]): {
  readonly now: Reading | null;
} {
  let now = $state.raw<Reading | null>(null);
  let turn = 0;
  $effect(() => {
    const body = asked();
    const own = ++turn;
    if (!body.request.prompt && !body.request.negative_prompt) {
      now = null;
      return undefined;
    }
    const timer = setTimeout(() => {
      void data(api.POST("/v1/prompts", { body })).then(
        (read) => {
          if (own === turn) now = read; // an older answer says nothing any more
        },
        () => {
          if (own === turn) now = null; // what is wrong with it is said when it is submitted
        },
      );
    }, PAUSE);
    return () => clearTimeout(timer);
  });
  return {
    get now() {
      return now;
    },
  };
}

/** The part of a reading that is about one field. */
export const fieldOf = (reading: Reading | null, field: Field["field"]): Field | null =>
  reading?.fields.find((one) => one.field === field) ?? null;

const kept = new Map<string, Promise<Completion[]>>();

/** What may be completed with a model; asked once. */
export function completionsOf(model: string): Promise<Completion[]> {
  let found = kept.get(model);
  if (found === undefined) {
    found = data(api.GET("/v1/completions", { params: { query: { model } } })).then((list) => list.items);
    found.catch(() => kept.delete(model));
    kept.set(model, found);
  }
  return found;
}

/** Forget them, as when a LoRA was added. */
export const forgetCompletions = (): void => kept.clear();
