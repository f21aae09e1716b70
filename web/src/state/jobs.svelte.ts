// The jobs of this key: what waits, what is drawn, what came of it. The server is the truth; here is what was last seen.
//
// One list is asked for as long as something is unfinished, and what the user looks at is followed by events besides,
// for its previews. Browsers open six connections to a server, for all tabs together, so a tab follows few jobs at a
// time, and none while it is hidden.

import { api, data, Problem, submit, watchJob, type Job, type JobBody, type Picture } from "../api";
import { isFinal } from "../api/events";
import { changed, onChanged } from "./tabs";

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

const STREAMS = 2; // jobs that are followed by events at a time
const POLL = 1000; // milliseconds between two looks while something is unfinished
const SLOW = 15_000; // while nothing is, in case another program submits
const KEPT = 60; // jobs that are held, besides unfinished ones

let byId = $state<Record<string, SeenJob>>({});
let order = $state.raw<string[]>([]); // ids, newest first
let isOnline = $state(true);
let isRead = $state(false);
let timer: ReturnType<typeof setTimeout> | undefined;
let streams = new Map<string, () => void>();
const wanted = new Set<string>(); // ids that views look at

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
  get(id: string): SeenJob | undefined {
    return byId[id];
  },

  /** Submit a job. Throws `Problem`. */
  async submit(body: JobBody): Promise<Job> {
    const job = await submit(body);
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
    const job = await data(api.POST("/v1/jobs/{id}/retry", { params: { path: { id } } }));
    see(job);
    changed("jobs");
    look(0);
    return job;
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

  /** Follow a job's previews while a view shows it. Returns a function that ends it. */
  follow(id: string): () => void {
    wanted.add(id);
    stream();
    return () => {
      wanted.delete(id);
      stream();
    };
  },

  /** Begin to look; called once by the shell. */
  start(): () => void {
    look(0);
    const seen = (): void => {
      stream();
      if (!document.hidden) look(0);
    };
    document.addEventListener("visibilitychange", seen);
    const end = onChanged("jobs", () => look(0));
    return () => {
      document.removeEventListener("visibilitychange", seen);
      end();
      clearTimeout(timer);
      for (const stop of streams.values()) stop();
      streams = new Map();
    };
  },

  /** Look at once. */
  refresh(): void {
    look(0);
  },
};

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

function see(job: Job): void {
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
  stream();
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
  for (const id of final.slice(KEPT)) if (!wanted.has(id)) drop(id);
}

// ---- looking ---------------------------------------------------------------------------------------------------------

let looking = false;
let again = false;

function look(after: number): void {
  clearTimeout(timer);
  timer = setTimeout(() => void lookNow(), after);
}

async function lookNow(): Promise<void> {
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  try {
    const query = isRead
      ? { status: ["queued", "running", "canceling"] as const, limit: 200 }
      : { limit: KEPT };
    const found = await data(api.GET("/v1/jobs", { params: { query: query as { limit: number } } }));
    const now = new Set(found.jobs.map((job) => job.id));
    for (const job of found.jobs) see(job);
    if (isRead) {
      // What was unfinished and is not among those that are, has ended meanwhile.
      for (const { job } of unfinished.filter((one) => !now.has(one.job.id))) {
        await jobs.fetch(job.id).catch((error: unknown) => {
          if (Problem.from(error).status === 404) drop(job.id);
        });
      }
    } else {
      const open = await data(
        api.GET("/v1/jobs", {
          params: { query: { status: ["queued", "running", "canceling"], limit: 200 } },
        }),
      );
      for (const job of open.jobs) see(job);
      isRead = true;
    }
    isOnline = true;
  } catch (error) {
    const problem = Problem.from(error);
    isOnline = !(problem.isOffline || problem.status === 503 || problem.status === 502);
  } finally {
    looking = false;
    const soon = again;
    again = false;
    look(soon ? 0 : unfinished.length > 0 || !isOnline ? POLL * (document.hidden ? 3 : 1) : SLOW);
  }
}

function stream(): void {
  const follow = document.hidden
    ? []
    : jobs.unfinished
        .filter((one) => wanted.has(one.job.id) && one.job.status !== "queued")
        .slice(0, STREAMS);
  const ids = new Set(follow.map((one) => one.job.id));
  for (const [id, stop] of streams) {
    if (!ids.has(id)) {
      stop();
      streams.delete(id);
    }
  }
  for (const id of ids) {
    if (!streams.has(id))
      streams.set(
        id,
        watchJob(id, (event) => hear(id, event.type, event.data)),
      );
  }
}

function hear(id: string, type: string, told: Record<string, unknown>): void {
  const one = byId[id];
  if (one === undefined || isFinal(one.job.status)) return;
  if (type === "progress") {
    const progress = told as unknown as Job["progress"];
    if (progress.value >= one.job.progress.value) one.job = { ...one.job, progress };
    tick(one, progress.value);
  } else if (type === "preview") {
    const index = (one.job.progress.picture ?? 1) - 1; // pictures are drawn one after another
    one.previews[index] = `data:${String(told["content_type"])};base64,${String(told["data_base64"])}`;
  } else if (type === "output" || (type === "status" && isFinal(told["status"]))) {
    void jobs.fetch(id).then(
      () => type === "status" && changed("gallery"),
      () => undefined,
    );
  }
}
