// Which job the stage shows. It is remembered for the tab, so that a reload shows the same.

import { jobs, type SeenJob } from "../state/jobs.svelte";
import { keep, kept } from "../state/store";

const PLACE = "gesso.current";

let id = $state<string | null>(kept(PLACE, "tab"));

export const current = {
  get id(): string | null {
    return id;
  },
  /** The job, or the newest one that was drawn here where none was chosen. */
  get job(): SeenJob | null {
    return (id === null ? undefined : jobs.get(id)) ?? shown()[0] ?? null;
  },
  show(job: string): void {
    id = job;
    keep(PLACE, job, "tab");
  },
};

/** Jobs that belong here, newest first: not those of a sheet, which has a view of its own, and no drafts but the last. */
export function shown(): SeenJob[] {
  return jobs.list.filter(({ job }) => {
    if (job.batch !== null || job.metadata["page"] === "change") return false;
    return job.metadata["page"] !== "draft" || job.id === id;
  });
}
