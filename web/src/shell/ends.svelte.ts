// How jobs end, wherever the user is: the title shows how far they are, a failure is told with its reason, and whoever
// asked for it is notified while the page is in the background.

import { inWords } from "../text/codes";
import { untrack } from "svelte";
import { isFinal, jobs } from "../state/jobs.svelte";
import { tellError } from "../state/notices.svelte";
import { Problem } from "../api";
import { settings } from "../state/settings.svelte";
import { keep, keptJson } from "../state/store";
import { draw } from "../text/draw";
import { go } from "./routes";
import { say } from "./live.svelte";

const RECENT = 600_000; // milliseconds
const TOLD = "gesso.told"; // failures that were told, so that a reload does not tell them again

/** Watch all jobs: call it in the frame's script. */
export function watchEnds(): void {
  const states = new Map<string, string>();
  const told = new Set(Object.values(keptJson(TOLD, []) as string[]));

  $effect(() => {
    const first = jobs.unfinished.find((one) => one.job.status !== "queued") ?? jobs.unfinished[0];
    if (!first) document.title = "gesso";
    else {
      const name = short(first.job.request.prompt);
      const share = Math.floor(100 * first.job.progress.value);
      document.title = first.job.status === "queued" ? `… ${name}` : `${share} % ${name}`;
    }
  });

  $effect(() => {
    for (const { job } of jobs.list) {
      const before = states.get(job.id);
      states.set(job.id, job.status);
      if (!isFinal(job.status) || before === job.status || job.metadata["page"] === "draft") continue;
      untrack(() => {
        // Of a sheet, whose view shows each, one failure is told. A browser that is new here is told no old ones.
        const name = job.batch ?? job.id;
        const isOld = before === undefined && Date.now() - Date.parse(job.completed_at ?? "") > RECENT;
        if (job.status === "failed" && !told.has(name) && !isOld) {
          told.add(name);
          keep(TOLD, JSON.stringify([...told].slice(-200)));
          const error = job.error;
          const problem = new Problem(
            {
              detail: error ? inWords(error.code, error.message) : "",
              code: error?.code,
              field: error?.field,
            },
            job.id,
          );
          tellError(draw.failed(short(job.request.prompt)), problem, {
            label: draw.useSettings,
            run: () => go(`#/draw?job=${job.id}`),
          });
        }
        if (before === undefined || before === job.status) return; // it was final when we came
        const isRest = job.batch !== null && jobs.unfinished.some((one) => one.job.batch === job.batch);
        if (job.status === "succeeded" && !isRest) {
          say(draw.ready(job.outputs.length), true);
          notify(short(job.request.prompt), draw.ready(job.outputs.length));
        }
      });
    }
  });
}

function notify(title: string, body: string): void {
  if (!settings.notify || !document.hidden || !("Notification" in window)) return;
  if (Notification.permission === "granted") new Notification(title, { body, tag: "gesso" });
}

export const short = (text = "", most = 60): string =>
  text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text;
