// Candidates: what jobs of this view have drawn, shown over the canvas until they are accepted or thrown away.

import { bytes, type Job } from "../api";
import { isFinal, jobs } from "../state/jobs.svelte";
import { tellError } from "../state/notices.svelte";
import { change as text } from "../text/change";
import type { Easel } from "./easel.svelte";
import type { Rect } from "./geometry";
import { Pixels } from "./layers";
import type { Mode } from "./request";
import type { Said } from "./say";

/** A job whose pictures are candidates. */
export interface Staged {
  job: string;
  mode: Mode | "say";
  /** Where its pictures belong, in pixels of the first document. */
  frame: Rect;
  count: number;
  /** What the pictures were drawn from, to see what has changed; null where that is not known any more. */
  before: Pixels | null;
  sentence: string | null;
  dismissed: number[];
}

export interface Candidate {
  key: string;
  staged: Staged;
  index: number;
  job: Job | null;
  /** Path of the finished picture, null while it is drawn. */
  path: string | null;
  preview: string | null;
  /** Notices of the picture: words that the model does not know. */
  notices: string[];
}

export class Staging {
  staged = $state.raw<Staged[]>([]);
  /** Key of the candidate over the canvas; null: none is shown. */
  chosen = $state<string | null>(null);
  /** What was before is shown, for as long as a key is held. */
  isHeld = $state(false);
  private awaited = $state<string | null>(null);
  private loaded = new Map<string, Pixels>();
  private stamp = $state(0);

  readonly list: Candidate[] = $derived(this.staged.flatMap((one) => candidatesOf(one)));

  get current(): Candidate | null {
    return this.list.find((one) => one.key === this.chosen) ?? null;
  }

  /** What of the chosen candidate can be shown. */
  get shown(): Pixels | null {
    if (this.stamp < 0 || this.chosen === null || this.isHeld) return null;
    return this.loaded.get(this.chosen) ?? null;
  }

  add(staged: Staged): void {
    this.staged = [...this.staged, staged];
  }

  /** A job that was asked for just now: its first picture is shown as soon as it is there. */
  await(staged: Staged): void {
    this.add(staged);
    this.choose(null);
    this.awaited = staged.job;
  }

  /** Show what was awaited, once it is there. */
  welcome(): void {
    const first = this.list.find((one) => one.staged.job === this.awaited && one.path !== null);
    if (first === undefined) return;
    this.awaited = null;
    if (this.chosen === null) this.choose(first.key);
  }

  choose(key: string | null): void {
    this.chosen = key;
    const candidate = this.current;
    if (candidate?.path && !this.loaded.has(candidate.key)) {
      void this.load(candidate).catch((error: unknown) => tellError(text.notLoaded, error));
    }
  }

  step(by: 1 | -1): void {
    const ready = this.list.filter((one) => one.path !== null);
    const at = ready.findIndex((one) => one.key === this.chosen);
    const next = ready[at < 0 ? (by > 0 ? 0 : ready.length - 1) : (at + by + ready.length) % ready.length];
    if (next !== undefined) this.choose(next.key);
  }

  dismiss(candidate: Candidate): void {
    this.forget(candidate.key);
    const index = this.list.findIndex((one) => one.key === candidate.key);
    this.staged = this.staged
      .map((one) =>
        one.job === candidate.staged.job ? { ...one, dismissed: [...one.dismissed, candidate.index] } : one,
      )
      .filter((one) => one.dismissed.length < one.count);
    if (this.chosen === candidate.key) {
      const next = this.list[Math.min(index, this.list.length - 1)];
      this.choose(next?.path ? next.key : null);
    }
  }

  /** A job that came to nothing. */
  dismissJob(job: string): void {
    this.staged = this.staged.filter((one) => one.job !== job);
  }

  clear(): void {
    for (const one of this.list) this.forget(one.key);
    this.staged = [];
    this.chosen = null;
  }

  private forget(key: string): void {
    this.loaded.delete(key);
  }

  /** The pixels of a candidate, as they lie over the canvas: of a part, only what has changed. */
  async load(candidate: Candidate): Promise<Pixels> {
    const held = this.loaded.get(candidate.key);
    if (held !== undefined) return held;
    if (candidate.path === null) throw new Error("the candidate is not drawn yet");
    const picture = await decoded(await bytes(candidate.path));
    const { frame, before } = candidate.staged;
    const pixels = Pixels.of(picture, { width: frame.w, height: frame.h });
    picture.close();
    const made = before !== null ? changedPart(pixels, before) : pixels;
    this.loaded.set(candidate.key, made);
    this.stamp++;
    return made;
  }

  /** Where a candidate lies in the document as it is now. */
  frameOf(staged: Staged, easel: Easel): Rect {
    return { ...staged.frame, x: staged.frame.x - easel.origin.x, y: staged.frame.y - easel.origin.y };
  }
}

/** A picture of the server or of the user, with its levels as they are. */
export async function decoded(file: Blob): Promise<ImageBitmap> {
  return await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

/** A picture that is clear where it is as before. */
export function changedPart(pixels: Pixels, before: Pixels): Pixels {
  if (pixels.width !== before.width || pixels.height !== before.height) return pixels;
  const [now, was] = [pixels.data(), before.data()];
  for (let i = 0; i < now.length; i += 4) {
    if (now[i] === was[i] && now[i + 1] === was[i + 1] && now[i + 2] === was[i + 2]) now[i + 3] = 0;
  }
  return Pixels.ofData(now, pixels);
}

function candidatesOf(staged: Staged): Candidate[] {
  const seen = jobs.get(staged.job);
  const job = seen?.job ?? null;
  const found: Candidate[] = [];
  for (let index = 0; index < staged.count; index++) {
    if (staged.dismissed.includes(index)) continue;
    const picture = job?.outputs.find((one) => one.index === index) ?? null;
    if (picture === null && job !== null && isFinal(job.status)) continue;
    found.push({
      key: `${staged.job}:${index}`,
      staged,
      index,
      job,
      path: picture?.url ?? null,
      preview: seen?.previews[index] ?? null,
      notices: picture?.notices.map((one) => one.message) ?? [],
    });
  }
  return found;
}

export type { Said };
