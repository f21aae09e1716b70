// Undo and redo without limit. Strokes keep the tiles that they change, packed; everything else keeps a pair of functions.

import { intersect, isEmpty, union, whole, EMPTY, type Rect } from "./geometry";
import type { Mask } from "./mask";

export const TILE = 64;

/** A tile as it is kept: one number where it has one level, else runs of (length, level), else the bytes. */
export type Packed = number | { runs: Uint8Array } | Uint8Array;

export function pack(tile: Uint8Array): Packed {
  const first = tile[0] as number;
  let same = true;
  let runs = 0;
  for (let i = 0, length = 0, last = -1; i < tile.length; i++) {
    const level = tile[i] as number;
    if (level !== first) same = false;
    if (level !== last || length === 255) {
      runs++;
      length = 0;
      last = level;
    }
    length++;
  }
  if (same) return first;
  if (2 * runs >= tile.length) return tile.slice();
  const out = new Uint8Array(2 * runs);
  let at = -2;
  for (let i = 0, last = -1; i < tile.length; i++) {
    const level = tile[i] as number;
    if (level !== last || out[at] === 255) {
      at += 2;
      out[at + 1] = level;
      last = level;
    }
    out[at] = (out[at] as number) + 1;
  }
  return { runs: out };
}

export function unpack(packed: Packed, length: number): Uint8Array {
  if (typeof packed === "number") return new Uint8Array(length).fill(packed);
  if (packed instanceof Uint8Array) return packed.slice();
  const out = new Uint8Array(length);
  let at = 0;
  for (let i = 0; i < packed.runs.length; i += 2) {
    const count = packed.runs[i] as number;
    out.fill(packed.runs[i + 1] as number, at, at + count);
    at += count;
  }
  return out;
}

function sizeOf(packed: Packed): number {
  return typeof packed === "number" ? 8 : packed instanceof Uint8Array ? packed.length : packed.runs.length;
}

function tileRect(mask: Mask, column: number, row: number): Rect {
  return intersect({ x: column * TILE, y: row * TILE, w: TILE, h: TILE }, whole(mask));
}

function read(mask: Mask, rect: Rect): Uint8Array {
  const out = new Uint8Array(rect.w * rect.h);
  for (let row = 0; row < rect.h; row++) {
    const from = (rect.y + row) * mask.width + rect.x;
    out.set(mask.data.subarray(from, from + rect.w), row * rect.w);
  }
  return out;
}

function write(mask: Mask, rect: Rect, tile: Uint8Array): void {
  for (let row = 0; row < rect.h; row++) {
    mask.data.set(tile.subarray(row * rect.w, (row + 1) * rect.w), (rect.y + row) * mask.width + rect.x);
  }
}

/** What a mask was, tile by tile, from the first touch on. */
export class Touched {
  private before = new Map<number, Packed>();
  private readonly columns: number;

  constructor(readonly mask: Mask) {
    this.columns = Math.ceil(mask.width / TILE);
  }

  /** Call it before a rectangle is changed. */
  touch(rect: Rect): void {
    const area = intersect(rect, whole(this.mask));
    if (isEmpty(area)) return;
    const right = Math.floor((area.x + area.w - 1) / TILE);
    const bottom = Math.floor((area.y + area.h - 1) / TILE);
    for (let row = Math.floor(area.y / TILE); row <= bottom; row++) {
      for (let column = Math.floor(area.x / TILE); column <= right; column++) {
        const key = row * this.columns + column;
        if (!this.before.has(key))
          this.before.set(key, pack(read(this.mask, tileRect(this.mask, column, row))));
      }
    }
  }

  /** The tiles that are now other than they were, ready to be swapped; null where nothing changed. */
  done(): TileChange | null {
    const changed = new Map<number, Packed>();
    for (const [key, packed] of this.before) {
      const rect = tileRect(this.mask, key % this.columns, Math.floor(key / this.columns));
      const now = read(this.mask, rect);
      const was = unpack(packed, now.length);
      if (now.some((level, i) => level !== was[i])) changed.set(key, packed);
    }
    return changed.size > 0 ? new TileChange(this.mask, this.columns, changed) : null;
  }
}

/** Tiles of a mask as they were. Swapping them undoes a change; swapping again redoes it. */
export class TileChange {
  constructor(
    private readonly mask: Mask,
    private readonly columns: number,
    private readonly tiles: Map<number, Packed>,
  ) {}

  /** Bytes that are kept. */
  get size(): number {
    let sum = 0;
    for (const packed of this.tiles.values()) sum += sizeOf(packed);
    return sum;
  }

  /** Returns the rectangle that changed. */
  swap(): Rect {
    let area: Rect = { ...EMPTY };
    for (const [key, packed] of this.tiles) {
      const rect = tileRect(this.mask, key % this.columns, Math.floor(key / this.columns));
      this.tiles.set(key, pack(read(this.mask, rect)));
      write(this.mask, rect, unpack(packed, rect.w * rect.h));
      area = union(area, rect);
    }
    return area;
  }
}

/** Something that was done. */
export interface Step {
  /** What it was, for people. */
  label: string;
  undo(): void;
  redo(): void;
  /** Bytes that it keeps, as far as they are known. */
  size?: number;
}

/** What was done, in order. Doing something new forgets what was undone before. */
export class History {
  private done: Step[] = [];
  private undone: Step[] = [];

  /** Told after each change. */
  constructor(private readonly changed: () => void = () => undefined) {}

  /** Something that has been done already. */
  add(step: Step): void {
    this.done.push(step);
    this.undone = [];
    this.changed();
  }

  undo(): Step | null {
    const step = this.done.pop();
    if (step === undefined) return null;
    step.undo();
    this.undone.push(step);
    this.changed();
    return step;
  }

  redo(): Step | null {
    const step = this.undone.pop();
    if (step === undefined) return null;
    step.redo();
    this.done.push(step);
    this.changed();
    return step;
  }

  clear(): void {
    this.done = [];
    this.undone = [];
    this.changed();
  }

  get nextUndo(): string | null {
    return this.done.at(-1)?.label ?? null;
  }

  get nextRedo(): string | null {
    return this.undone.at(-1)?.label ?? null;
  }

  get length(): number {
    return this.done.length;
  }

  get size(): number {
    return [...this.done, ...this.undone].reduce((sum, step) => sum + (step.size ?? 0), 0);
  }
}
