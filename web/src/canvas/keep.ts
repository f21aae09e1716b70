// Keeps what is on the canvas in the browser, so that a reload or a closed tab loses nothing.

import { uuid } from "../api/unique";
import type { Point, Size } from "./geometry";
import { MaskPixels, Painted, Pixels, type Control, type Layer } from "./layers";
import { pack, unpack } from "./undo";
import { encodePng } from "./png";
import type { Settings } from "./request";

const NAME = "gesso.canvas";
const STORE = "documents";
export const VERSION = 1;

type Kept = {
  id: string;
  name: string;
  visible: boolean;
  locked: boolean;
  opacity: number;
} & (
  | { kind: "picture"; png: Blob; painted?: boolean }
  | { kind: "mask"; levels: Blob }
  | { kind: "hint"; png: Blob; control: Control }
);

export interface KeptDocument {
  version: number;
  /** Of the picture it began with, as the address names it; with `~` and a mark behind it, a copy (see `copyId`). */
  id: string;
  at: number;
  /** New with each change, so that a tab sees that another one has written since; older documents have none. */
  stamp?: string | undefined;
  size: Size;
  origin: Point;
  active: string;
  layers: Kept[];
  settings: Settings;
  staged: {
    job: string;
    mode: string;
    frame: { x: number; y: number; w: number; h: number };
    count: number;
    sentence: string | null;
    dismissed: number[];
    before: Blob | null;
  }[];
  turns: unknown[];
}

async function database(): Promise<IDBDatabase> {
  return await new Promise((resolve, reject) => {
    const asked = indexedDB.open(NAME, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE);
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error ?? new Error("no database"));
  });
}

async function run<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const opened = await database();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = opened.transaction(STORE, mode);
      const asked = work(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onerror = () => reject(transaction.error ?? new Error("not kept"));
    });
  } finally {
    opened.close();
  }
}

// One after another: who reads sees all that this tab has begun to write.
let last: Promise<unknown> = Promise.resolve();

export function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const mine = last.then(work);
  last = mine.catch(() => undefined);
  return mine;
}

/** The document of a picture, as any tab has kept it last. */
export async function read(id: string): Promise<KeptDocument | null> {
  const found = await run<KeptDocument | undefined>(
    "readonly",
    (store) => store.get(id) as IDBRequest<KeptDocument | undefined>,
  );
  return found?.version === VERSION ? found : null;
}

async function all(): Promise<KeptDocument[]> {
  const found = await run<KeptDocument[]>(
    "readonly",
    (store) => store.getAll() as IDBRequest<KeptDocument[]>,
  );
  return found.sort((a, b) => b.at - a.at);
}

/** All documents, that which was changed last first. */
export async function unfinished(): Promise<KeptDocument[]> {
  return (await all()).filter((one) => one.version === VERSION);
}

const MOST = 6; // documents; the oldest is forgotten

/** Write a document over the version that the tab began from (`since`), or where there is none. Returns whether it did:
 * what another tab has written meanwhile stays. */
export async function write(document: KeptDocument, since: string | undefined): Promise<boolean> {
  const opened = await database();
  try {
    const done = await new Promise<boolean>((resolve, reject) => {
      const transaction = opened.transaction(STORE, "readwrite");
      const store = transaction.objectStore(STORE);
      const asked = store.get(document.id) as IDBRequest<KeptDocument | undefined>;
      let isOurs = true;
      asked.onsuccess = () => {
        isOurs = asked.result === undefined || asked.result.stamp === since;
        if (isOurs) store.put(document, document.id);
      };
      transaction.oncomplete = () => resolve(isOurs);
      transaction.onerror = () => reject(transaction.error ?? new Error("not kept"));
    });
    if (!done) return false;
  } finally {
    opened.close();
  }
  for (const old of (await all()).slice(MOST)) await forget(old.id);
  return true;
}

export async function forget(id: string): Promise<void> {
  await run("readwrite", (store) => store.delete(id));
}

/** The address of a second document of the same picture, and of the picture that a document began with. */
export const copyId = (id: string): string => `${pictureOf(id)}~${uuid().slice(0, 8)}`;
export const pictureOf = (id: string): string => id.replace(/~[0-9a-f]{8}$/, "");

/** What was made of pixels before, and of which of their versions. */
export type PngCache = WeakMap<Pixels, { png: Blob; version: number }>;

/** A layer as it can be kept. */
export async function keptLayer(layer: Layer, cache: PngCache): Promise<Kept> {
  const { id, name, visible, locked, opacity } = layer;
  const base = { id, name, visible, locked, opacity };
  if (layer.kind === "mask") {
    const packed = pack(layer.pixels.mask.data);
    return { ...base, kind: "mask", levels: new Blob([packedBytes(packed) as BlobPart]) };
  }
  const png = await pngOf(layer.pixels, cache);
  return layer.kind === "hint"
    ? { ...base, kind: "hint", png, control: layer.control }
    : { ...base, kind: "picture", png, painted: layer.pixels instanceof Painted };
}

export async function pngOf(pixels: Pixels, cache: PngCache): Promise<Blob> {
  const held = cache.get(pixels);
  if (held?.version === pixels.version) return held.png;
  const { version } = pixels;
  const png = await encodePng(pixels.width, pixels.height, 4, pixels.data());
  cache.set(pixels, { png, version });
  return png;
}

/** A packed mask as bytes: what it is (0 plain, 1 runs, 2 bytes), then its numbers. */
function packedBytes(packed: ReturnType<typeof pack>): Uint8Array {
  if (typeof packed === "number") return new Uint8Array([0, packed]);
  const [kind, data] = packed instanceof Uint8Array ? [2, packed] : [1, packed.runs];
  const out = new Uint8Array(data.length + 1);
  out[0] = kind;
  out.set(data, 1);
  return out;
}

export function levelsOf(bytes: Uint8Array, length: number): Uint8Array {
  const data = bytes.subarray(1);
  if (bytes[0] === 0) return unpack(data[0] ?? 0, length);
  return unpack(bytes[0] === 1 ? { runs: data } : data, length);
}

export async function layerOf(
  kept: Kept,
  size: Size,
  decode: (file: Blob) => Promise<ImageBitmap>,
): Promise<Layer> {
  const { id, name, visible, locked, opacity } = kept;
  const base = { id, name, visible, locked, opacity };
  if (kept.kind === "mask") {
    const bytes = new Uint8Array(await kept.levels.arrayBuffer());
    const data = levelsOf(bytes, size.width * size.height);
    return { ...base, kind: "mask", pixels: new MaskPixels({ ...size, data }) };
  }
  const pixels = Pixels.of(await decode(kept.png), size);
  return kept.kind === "hint"
    ? { ...base, kind: "hint", pixels, control: kept.control }
    : { ...base, kind: "picture", pixels: kept.painted ? new Painted(pixels) : pixels };
}
