// The jobs of this key: what waits, what is drawn, what came of it. The server is the truth; here is what was last seen.
//
// One stream tells everything that happens to them. Browsers open six connections to a server, for all tabs together, so
// a tab that is hidden gives its stream up and asks now and then instead.

import { untrack } from "svelte";
import {
  api,
  data,
  listen,
  Problem,
  submit,
  type Job,
  type JobBody,
  type JobEvent,
  type Picture,
  type ToldJob,
} from "../api";
import { access } from "../api/key.svelte";
import { isFinal } from "../api/events";
import type { paths } from "../api/schema";
import { changed, heard, onChanged } from "./tabs";
import { markUsed } from "./used";

export { isFinal };

/** A job with what its events told. */
export interface SeenJob {
  job: Job;
  /** Address of the newest preview of each picture, by its index. */
  previews: Record<number, string>;
  /** When a step was last told, and what we expect: for the time left. */
  clock: Clock | null;
}

interface Clock {
  value: number;
  at: number;
  /** Share of the job a millisecond, smoothed. */
  pace: number | null;
}

const POLL = 2000; // milliseconds between two looks of a hidden tab, or while there is no stream
const REST = 20_000; // while nothing is unfinished
const KEPT = 60; // jobs that are held, besides unfinished ones

let byId = $state<Record<string, SeenJob>>({});
let order = $state.raw<string[]>([]); // ids, newest first
let isOnline = $state(true);
let isRead = $state(false);
let isPaused = $state(false);
let timer: ReturnType<typeof setTimeout> | undefined;
let stop: (() => void) | null = null;
let last = 0; // number of the last event

const list = $derived(order.map((id) => byId[id]).filter((one) => one !== undefined));
const unfinished = $derived(list.filter((one) => !isFinal(one.job.status)));

export const jobs = {
  /** Newest first. */
  get list(): SeenJob[] {
    return list;
  },
  /** What waits or is drawn, in the order in which it will be: what is drawn first, then by position. */
  get unfinished(): SeenJob[] {
    const rank = (one: SeenJob): number =>
      one.job.status === "queued" ? (one.job.queue_position ?? 1e9) + 1 : 0;
    return [...unfinished].sort(
      (a, b) => rank(a) - rank(b) || a.job.created_at.localeCompare(b.job.created_at),
    );
  },
  /** Whether the server answers. */
  get isOnline(): boolean {
    return isOnline;
  },
  get isRead(): boolean {
    return isRead;
  },
  /** Whether the user has told the queue to wait. */
  get isPaused(): boolean {
    return isPaused;
  },
  get(id: string): SeenJob | undefined {
    return byId[id];
  },

  /** Submit a job. Throws `Problem`. */
  async submit(body: JobBody): Promise<Job> {
    const job = await submit(body);
    markUsed([job.model, ...namesIn(job.request)]);
    see(job);
    changed("jobs");
    look(0);
    return job;
  },

  async cancel(id: string): Promise<void> {
    see(await data(api.POST("/v1/jobs/{id}/cancel", { params: { path: { id } } })));
    changed("jobs");
    look(0);
  },

  async retry(id: string): Promise<Job> {
    const job = (await data(api.POST("/v1/jobs/{id}/retry", { params: { path: { id } } }))) as unknown as Job;
    see(job);
    changed("jobs");
    look(0);
    return job;
  },

  /** Let the queue wait, or go on. What is being drawn is finished. */
  async pause(wanted: boolean): Promise<void> {
    const queue = await data(wanted ? api.POST("/v1/queue/pause") : api.POST("/v1/queue/resume"));
    isPaused = queue.paused;
  },

  /** Let a waiting job come sooner (up to 10) or later (down to -10). */
  async prioritise(id: string, priority: number): Promise<void> {
    see(await data(api.POST("/v1/jobs/{id}/priority", { params: { path: { id } }, body: { priority } })));
    look(0);
  },

  /** Forget a final job and its pictures. */
  async forget(id: string): Promise<void> {
    await api.DELETE("/v1/jobs/{id}", { params: { path: { id } } });
    drop(id);
    changed("jobs");
    changed("gallery");
  },

  /** Ask for one job, as after a reload. Throws `Problem`. */
  async fetch(id: string): Promise<SeenJob> {
    see(await data(api.GET("/v1/jobs/{id}", { params: { path: { id } } })));
    return byId[id] as SeenJob;
  },

  /** Begin to look; called once by the shell. */
  start(): () => void {
    let gone: ReturnType<typeof setTimeout> | undefined;
    const seen = (): void => {
      clearTimeout(gone);
      if (document.hidden) gone = setTimeout(hush, 10_000);
      else {
        hear();
        look(0);
      }
    };
    look(0);
    seen();
    document.addEventListener("visibilitychange", seen);
    const end = onChanged("jobs", () => look(0));
    return () => {
      document.removeEventListener("visibilitychange", seen);
      end();
      clearTimeout(timer);
      clearTimeout(gone);
      hush();
    };
  },

  /** Look at once, and listen anew: with another key the stream is another. */
  refresh(): void {
    stop?.();
    stop = null;
    if (!document.hidden) hear();
    look(0);
  },
};

/** Do something each time the server answers again: call it in a component's script. */
export function whenBack(run: () => void): void {
  let wasOnline = true;
  $effect(() => {
    const now = isOnline;
    if (now && !wasOnline) untrack(run);
    wasOnline = now;
  });
}

/** All pictures of the jobs that are held, newest first. */
export const pictures = {
  get list(): { job: Job; picture: Picture }[] {
    return list.flatMap(({ job }) => job.outputs.map((picture) => ({ job, picture })));
  },
};

/** Seconds that are left of a job, or null where it is too early to tell. Honest: measured from its own steps. */
export function secondsLeft(seen: SeenJob, now: number): number | null {
  const clock = seen.clock;
  if (seen.job.status !== "running" || clock === null || clock.pace === null || clock.pace <= 0) return null;
  return Math.max((1 - clock.value) / clock.pace - (now - clock.at), 0) / 1000;
}

// ---- what is seen ----------------------------------------------------------------------------------------------------

function see(told: ToldJob | Job): void {
  const job = told as Job;
  const held = byId[job.id];
  if (held === undefined) {
    byId[job.id] = { job, previews: {}, clock: null };
    order = [job.id, ...order].sort((a, b) => newer(byId[a], byId[b]));
    if (isFinal(job.status)) prune();
  } else {
    // An answer that was on its way when an event came knows less than we do.
    if (isFinal(held.job.status) && !isFinal(job.status)) return;
    const isBehind = job.status === held.job.status && job.progress.value < held.job.progress.value;
    held.job = isBehind ? { ...job, progress: held.job.progress } : job;
  }
  const one = byId[job.id] as SeenJob;
  if (job.status === "running") tick(one, job.progress.value);
  if (isFinal(job.status)) one.previews = {};
}

/** Adapters that a request names. */
function namesIn(request: Job["request"]): string[] {
  const tags = (request.prompt ?? "").matchAll(/<(?:lora|lyco):([^:<>]+)/gi);
  return [
    ...[...tags].map((tag) => (tag[1] ?? "").trim()),
    ...(request.loras ?? []).map((one) => one.name),
    ...(request.controls ?? []).map((one) => one.model),
  ];
}

const newer = (a?: SeenJob, b?: SeenJob): number =>
  (b?.job.created_at ?? "").localeCompare(a?.job.created_at ?? "") ||
  (b?.job.id ?? "").localeCompare(a?.job.id ?? "");

function tick(one: SeenJob, value: number): void {
  const now = performance.now();
  const clock = one.clock;
  if (clock === null || value < clock.value) {
    one.clock = { value, at: now, pace: null };
  } else if (value > clock.value) {
    const pace = (value - clock.value) / Math.max(now - clock.at, 1);
    one.clock = { value, at: now, pace: clock.pace === null ? pace : 0.7 * clock.pace + 0.3 * pace };
  }
}

function drop(id: string): void {
  delete byId[id];
  order = order.filter((one) => one !== id);
}

function prune(): void {
  const final = order.filter((id) => isFinal(byId[id]?.job.status));
  for (const id of final.slice(KEPT)) drop(id);
}

// ---- looking ---------------------------------------------------------------------------------------------------------

function hear(): void {
  stop ??= listen("/v1/events", told, {
    last,
    onConnection: (isThere) => {
      isOnline = isThere || access.isWanted;
      if (isThere) look(0);
      else look(POLL);
    },
  });
}

function hush(): void {
  stop?.();
  stop = null;
  look(POLL);
}

function told(event: JobEvent): void {
  last = event.number;
  const job = event.data as Record<string, unknown>;
  if (event.type === "job") {
    see(event.data as unknown as Job);
  } else if (event.type === "queue") {
    isPaused = Boolean(job["paused"]);
  } else if (event.type === "gallery") {
    heard("gallery");
  } else if (event.type === "gone") {
    drop(String(job["job"]));
  } else {
    const one = byId[String(job["job"])];
    if (one === undefined || isFinal(one.job.status)) return;
    if (event.type === "progress") {
      const progress = job as unknown as Job["progress"];
      if (progress.value >= one.job.progress.value) one.job = { ...one.job, progress };
      tick(one, progress.value);
    } else if (event.type === "preview") {
      const index = (one.job.progress.picture ?? 1) - 1; // pictures are drawn one after another
      one.previews[index] = `data:${String(job["content_type"])};base64,${String(job["data_base64"])}`;
    }
  }
}

let looking = false;
let again = false;

function look(after: number): void {
  clearTimeout(timer);
  timer = setTimeout(() => void lookNow(), after);
}

/** Ask for the list: at first, and where no stream tells. */
async function lookNow(): Promise<void> {
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  try {
    if (!isRead) for (const job of (await page({ limit: KEPT })).jobs) see(job);
    const open = (await page({ status: ["queued", "running", "canceling"], limit: 200 })).jobs;
    const now = new Set(open.map((job) => job.id));
    for (const job of open) see(job);
    // What was unfinished and is not among those that are, has ended meanwhile.
    for (const { job } of unfinished.filter((one) => !now.has(one.job.id))) {
      await jobs.fetch(job.id).catch((error: unknown) => {
        if (Problem.from(error).status === 404) drop(job.id);
      });
    }
    isRead = isOnline = true;
  } catch (error) {
    const problem = Problem.from(error);
    isOnline = !(problem.isOffline || problem.status === 503 || problem.status === 502);
  } finally {
    looking = false;
    if (again || stop === null || !isOnline || !isRead)
      look(again ? 0 : unfinished.length > 0 || !isOnline ? POLL : REST);
    again = false;
  }
}

type Query = NonNullable<paths["/v1/jobs"]["get"]["parameters"]["query"]>;
const page = (query: Query) => data(api.GET("/v1/jobs", { params: { query } }));
