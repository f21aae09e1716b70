// Drafts while one writes: one picture in few steps, with a seed that stays, whenever the form rests for a moment. The last
// is kept until the next is drawn or it is drawn in full; the others go, so that they are in nobody's way.

import type { JobBody, Model } from "../api";
import { uuid } from "../api/unique";
import { isFinal, jobs } from "../state/jobs.svelte";
import { settings } from "../state/settings.svelte";
import { keep, kept } from "../state/store";
import { current } from "./current.svelte";

const REST = 700; // milliseconds without a change
const LEAST = 4; // steps
const SHARE = 0.35; // of the steps of the picture in full
const PLACE = "gesso.draft-tab";

const tab = kept(PLACE, "tab") ?? uuid();
keep(PLACE, tab, "tab");

/** A draft of a job. */
export function draftOf(body: JobBody, model: Pick<Model, "defaults">, seed: number): JobBody {
  const steps = body.request.num_steps ?? model.defaults.num_steps;
  const { hires: _, ...request } = body.request;
  return {
    ...body,
    request: {
      ...request,
      num_images: 1,
      num_steps: Math.max(Math.min(LEAST, steps), Math.round(SHARE * steps)),
      seed: body.request.seed ?? seed,
    } as JobBody["request"],
    output: { format: "webp", quality: 80 },
    metadata: { page: "draft", tab },
  };
}

/** Draw drafts: call it in a component's script. `asked` gives the job as it stands now; null: nothing to draw. */
export function useDrafts(asked: () => { body: JobBody; model: Model } | null): {
  /** The seed of the draft that is shown, for drawing it in full; null where none is. */
  readonly seed: number | null;
  /** Something was changed by hand: what is only restored is not drawn. */
  touch(): void;
} {
  let isTouched = $state(false);
  const seed = Math.floor(Math.random() * 2 ** 32);
  let last = "";
  const going = new Set<string>(); // drafts that are stopped or forgotten already

  $effect(() => {
    const now = settings.drafts && isTouched ? asked() : null;
    if (!now) return undefined;
    const body = draftOf(now.body, now.model, seed);
    const text = JSON.stringify(body, (_, one: unknown) => (typeof one === "bigint" ? String(one) : one));
    if (text === last) return undefined;
    const timer = setTimeout(() => {
      last = text;
      void jobs.submit(body).then(
        (job) => current.show(job.id),
        () => undefined, // half a sentence may be wrong; what is wrong is said when it is drawn in full
      );
    }, REST);
    return () => clearTimeout(timer);
  });

  // Drafts of this tab that are older than what is shown stop, and go. Ids grow with time; a draft that was asked for just
  // now may be told before it is shown.
  $effect(() => {
    const all = jobs.list.filter(
      (one) => one.job.metadata["page"] === "draft" && one.job.metadata["tab"] === tab,
    );
    for (const { job } of all) {
      const [step, way] = isFinal(job.status) ? ["forget", jobs.forget] : ["cancel", jobs.cancel];
      if (current.id === null || job.id >= current.id || going.has(`${step} ${job.id}`)) continue;
      going.add(`${step} ${job.id}`); // once each
      way(job.id).catch(() => undefined);
    }
  });

  return {
    get seed() {
      const shown = current.job?.job;
      if (shown?.metadata["page"] !== "draft") return null;
      return Number(shown.request.seed ?? seed);
    },
    touch() {
      isTouched = true;
    },
  };
}
