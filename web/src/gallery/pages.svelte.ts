// The list of pictures that the library shows: of any length, asked for in parts, and only those parts that are looked at.

import { api, data } from "../api";
import type { components } from "../api/schema";

export type LibraryPicture = components["schemas"]["LibraryPicture"];
export type Board = components["schemas"]["BoardResource"];

export interface Wanted {
  q: string;
  starred: boolean;
  deleted: boolean;
  board: string | null;
}

export const ALL: Wanted = { q: "", starred: false, deleted: false, board: null };
export const PART = 100; // pictures that are asked for at once
const MOST = 30; // parts that are held, so that memory stays flat however far one scrolls

export type Ask = (wanted: Wanted, skip: number, limit: number, cursor: string | null) => Promise<Page>;
export interface Page {
  images: LibraryPicture[];
  total: number;
  top: string;
}

const ask: Ask = (wanted, skip, limit, cursor) =>
  data(
    api.GET("/v1/images", {
      params: {
        query: {
          limit,
          ...(wanted.q ? { q: wanted.q } : {}),
          ...(wanted.starred ? { starred: true } : {}),
          ...(wanted.deleted ? { deleted: true } : {}),
          ...(wanted.board ? { board: wanted.board } : {}),
          ...(skip ? { skip } : {}),
          ...(cursor ? { cursor } : {}),
        },
      },
    }),
  );

/** A list in parts. The places of its pictures do not change while it is held, whatever is drawn meanwhile. */
export class Pages {
  /** How many pictures it has; null before the first part is there. */
  total = $state<number | null>(null);
  /** Counts what came, so that whoever looked up a picture looks again. */
  version = $state(0);
  error = $state.raw<unknown>(null);
  wanted: Wanted = ALL;

  #top: string | null = null;
  #newest: string | null = null; // id of the first picture, where it was seen
  #parts = new Map<number, LibraryPicture[]>(); // the part that was looked at last stands last
  #coming = new Map<number, Promise<void>>();
  #generation = 0;
  #ask: Ask;

  constructor(how: Ask = ask) {
    this.#ask = how;
  }

  /** Show another list, or the same anew. What is shown stays until the new one is there. */
  async open(wanted: Wanted, at = 0): Promise<void> {
    const generation = ++this.#generation;
    const isOther = JSON.stringify(wanted) !== JSON.stringify(this.wanted);
    this.wanted = wanted;
    const part = isOther ? 0 : Math.floor(at / PART);
    try {
      const first = await this.#ask(wanted, part * PART, PART, null);
      if (generation !== this.#generation) return;
      this.#parts = new Map([[part, first.images]]);
      this.#coming.clear();
      this.#top = first.top;
      this.#newest = part === 0 ? (first.images[0]?.id ?? "") : null;
      this.total = first.total;
      this.error = null;
    } catch (error) {
      if (generation !== this.#generation) return;
      this.error = error;
      if (isOther) {
        this.#parts.clear();
        this.total = null;
      }
    }
    this.version += 1;
  }

  /** The picture at a place; undefined where it is not there yet. */
  at(index: number): LibraryPicture | undefined {
    void this.version;
    return this.#parts.get(Math.floor(index / PART))?.[index % PART];
  }

  /** The place of a picture among those that are held; -1 for none. */
  find(id: string): number {
    void this.version;
    for (const [part, images] of this.#parts) {
      const place = images.findIndex((one) => one.id === id);
      if (place >= 0) return part * PART + place;
    }
    return -1;
  }

  /** Have the pictures between two places. */
  async need(first: number, last: number): Promise<void> {
    if (this.total === null) return;
    const end = Math.min(last, this.total);
    const coming: Promise<void>[] = [];
    for (let part = Math.floor(Math.max(first, 0) / PART); part * PART < end; part++) {
      const held = this.#parts.get(part);
      if (held) {
        this.#parts.delete(part);
        this.#parts.set(part, held);
      } else coming.push(this.#coming.get(part) ?? this.#fetch(part));
    }
    await Promise.all(coming);
  }

  #fetch(part: number): Promise<void> {
    const generation = this.#generation;
    const coming = this.#ask(this.wanted, part * PART, PART, this.#top)
      .then((page) => {
        if (generation !== this.#generation) return;
        this.#parts.set(part, page.images);
        while (this.#parts.size > MOST) this.#parts.delete(this.#parts.keys().next().value as number);
        this.error = null;
        this.version += 1;
      })
      .catch((error: unknown) => {
        if (generation === this.#generation) this.error = error;
      })
      .finally(() => {
        if (generation === this.#generation) this.#coming.delete(part);
      });
    this.#coming.set(part, coming);
    return coming;
  }

  /** Whether the list is as it is shown: something has changed, and perhaps elsewhere. */
  async isCurrent(): Promise<boolean> {
    if (this.total === null) return false;
    try {
      const now = await this.#ask(this.wanted, 0, 1, null);
      const isFirst = this.#newest === null || (now.images[0]?.id ?? "") === this.#newest;
      return now.total === this.total && isFirst;
    } catch {
      return true; // it cannot be asked, so nothing is to be shown either
    }
  }

  /** Show pictures as they are after a change. */
  update(changed: LibraryPicture[]): void {
    const byId = new Map(changed.map((one) => [one.id, one]));
    for (const [part, images] of this.#parts) {
      if (images.some((one) => byId.has(one.id)))
        this.#parts.set(
          part,
          images.map((one) => byId.get(one.id) ?? one),
        );
    }
    this.version += 1;
  }
}
