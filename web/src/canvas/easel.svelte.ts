// The document on the canvas: its size and its layers, what is chosen, and what can be undone.

import type { Sides } from "./frame";
import { intersect, whole, type Point, type Rect, type Size } from "./geometry";
import { colourOf, laid, type Colour } from "./colour";
import {
  MaskPixels,
  Painted,
  Pixels,
  type Kind,
  type Layer,
  type MaskLayer,
  type PictureLayer,
} from "./layers";
import { combined, copied, newMask, ofPicture, type Mask } from "./mask";
import { History, Touched, type Step } from "./undo";

interface Snapshot {
  width: number;
  height: number;
  origin: Point;
  layers: Layer[];
  active: string;
}

/** Told which part of the document looks different; null: all of it. */
type OnDamage = (rect: Rect | null) => void;

let number = 1;
const newId = (): string => `${Date.now().toString(36)}-${number++}`;

export class Easel {
  width = $state(0);
  height = $state(0);
  /** Where the document's corner lies in the first document: extending at the left makes it negative. */
  origin = $state.raw<Point>({ x: 0, y: 0 });
  /** From the bottom to the top. */
  layers = $state.raw<Layer[]>([]);
  active = $state("");
  /** Grows with each change, for whatever follows them. */
  stamp = $state(0);
  private readonly history = new History(() => this.stamp++);
  private readonly watchers = new Set<OnDamage>();
  private live: Snapshot | null = null;

  get size(): Size {
    return { width: this.width, height: this.height };
  }
  get layer(): Layer | undefined {
    return this.layers.find((one) => one.id === this.active);
  }
  get masks(): MaskLayer[] {
    return this.layers.filter((one) => one.kind === "mask");
  }
  get isEmpty(): boolean {
    return this.width === 0;
  }
  get canUndo(): string | null {
    return this.stamp < 0 ? null : this.history.nextUndo;
  }
  get canRedo(): string | null {
    return this.stamp < 0 ? null : this.history.nextRedo;
  }
  /** Bytes that undoing keeps, and how many steps. */
  get kept(): { size: number; steps: number } {
    return { size: this.history.size, steps: this.history.length };
  }

  watch(on: OnDamage): () => void {
    this.watchers.add(on);
    return () => this.watchers.delete(on);
  }

  damage(rect: Rect | null = null): void {
    for (const on of this.watchers) on(rect);
  }

  /** Begin with a picture and an empty mask. */
  open(picture: Pixels, names: { picture: string; mask: string }): void {
    this.width = picture.width;
    this.height = picture.height;
    this.origin = { x: 0, y: 0 };
    const mask = newLayer("mask", names.mask, MaskPixels.empty(this.size));
    this.layers = [newLayer("picture", names.picture, picture), mask];
    this.active = mask.id;
    this.history.clear();
    this.damage();
  }

  /** Put back what was kept. */
  restore(size: Size, origin: Point, layers: Layer[], active: string): void {
    this.width = size.width;
    this.height = size.height;
    this.origin = origin;
    this.layers = layers;
    this.active = active;
    this.history.clear();
    this.damage();
  }

  /** Show another version of the same; it can be undone. */
  replace(size: Size, origin: Point, layers: Layer[], active: string, label: string): void {
    this.structural(label, () => this.put({ ...size, origin, layers, active }));
  }

  // ---- undo ----------------------------------------------------------------------------------------------------------

  undo(): Step | null {
    return this.history.undo();
  }
  redo(): Step | null {
    return this.history.redo();
  }

  private snapshot(): Snapshot {
    return {
      width: this.width,
      height: this.height,
      origin: this.origin,
      layers: this.layers,
      active: this.active,
    };
  }

  private put(snapshot: Snapshot): void {
    this.width = snapshot.width;
    this.height = snapshot.height;
    this.origin = snapshot.origin;
    this.layers = snapshot.layers;
    this.active = snapshot.active;
    this.damage();
  }

  /** Something that changes layers as a whole, to be undone as a whole. */
  private structural(label: string, change: () => void): void {
    const before = this.snapshot();
    change();
    const after = this.snapshot();
    this.history.add({ label, undo: () => this.put(before), redo: () => this.put(after) });
    this.damage();
  }

  /** The mask that tools work on: the chosen layer, or else the topmost mask; null where it is locked. */
  get target(): MaskLayer | null {
    const chosen = this.layer;
    const mask = chosen?.kind === "mask" ? chosen : this.masks.at(-1);
    return mask === undefined || mask.locked ? null : mask;
  }

  /** Begin to change a mask: touch each rectangle before it is changed, then `end`. */
  paint(label: string): Painting | null {
    const layer = this.target;
    return layer === null
      ? null
      : new Painting(this, layer, label, (step) => {
          this.history.add(step);
        });
  }

  /** Begin to paint with a colour, or to take colour away (null): on the topmost layer of colour, or on a new one, called
   * `name`. null where the layer is locked, or there is nothing to take away. */
  paintColour(label: string, colour: string | null, name: string): ColourPainting | null {
    const isColour = (one: Layer): one is PictureLayer & { pixels: Painted } =>
      one.kind === "picture" && one.pixels instanceof Painted && one.visible;
    const chosen = this.layer;
    const found = chosen && isColour(chosen) ? chosen : this.layers.findLast(isColour);
    if (found?.locked || (!found && colour === null)) return null;
    const before = this.snapshot();
    let pixels = found?.pixels as Painted | undefined;
    if (pixels === undefined) {
      pixels = new Painted(Pixels.empty(this.size));
      const last = this.layers.findLastIndex((one) => one.kind === "picture");
      this.layers = this.layers.toSpliced(last + 1, 0, newLayer("picture", name, pixels));
    }
    const after = this.snapshot();
    const isNew = found === undefined;
    return new ColourPainting(this, pixels, colour === null ? null : colourOf(colour), (change) => {
      // The first stroke comes and goes with its layer.
      if (change === null) {
        if (isNew) this.put(before);
      } else if (isNew) {
        this.history.add({ label, undo: () => this.put(before), redo: () => this.put(after) });
      } else this.history.add({ label, ...change });
    });
  }

  /** Change a mask at once. Returns whether there was one to change. */
  change(label: string, work: (mask: Mask, touch: (rect: Rect) => void) => Rect): boolean {
    const painting = this.paint(label);
    if (painting === null) return false;
    painting.changed(work(painting.mask, (rect) => painting.touch(rect)));
    painting.end();
    return true;
  }

  /** Change all of a mask at once. */
  changeAll(label: string, work: (mask: Mask) => Rect): boolean {
    return this.change(label, (mask, touch) => {
      touch(whole(mask));
      return work(mask);
    });
  }

  // ---- layers --------------------------------------------------------------------------------------------------------

  /** Change what a layer is called, whether it is seen, ... A label makes it a step that can be undone; null is for what
   * changes many times in a row, until `settle`. */
  set(
    id: string,
    values: Partial<Pick<Layer, "name" | "visible" | "locked" | "opacity">>,
    label: string | null,
  ): void {
    const change = (): void => {
      this.layers = this.layers.map((one) => (one.id === id ? ({ ...one, ...values } as Layer) : one));
    };
    if (label === null) {
      this.live ??= this.snapshot();
      change();
      this.damage();
    } else this.structural(label, change);
  }

  /** What was changed without a label since, as one step: a slider that was moved and is let go. */
  settle(label: string): void {
    const before = this.live;
    if (before === null) return;
    this.live = null;
    const after = this.snapshot();
    this.history.add({ label, undo: () => this.put(before), redo: () => this.put(after) });
  }

  /** Change how a hint steers; not a step of its own. */
  steer(id: string, values: Partial<Extract<Layer, { kind: "hint" }>["control"]>): void {
    this.layers = this.layers.map((one) =>
      one.id === id && one.kind === "hint" ? { ...one, control: { ...one.control, ...values } } : one,
    );
    this.stamp++;
  }

  /** Put a layer above the chosen one of its kind, or above all. */
  add(layer: Layer, label: string): void {
    this.structural(label, () => {
      const last = this.layers.findLastIndex((one) => one.kind === layer.kind);
      // Pictures lie below hints, and masks on top of all, so that what is new can be seen.
      const at = last >= 0 ? last + 1 : layer.kind === "picture" ? 0 : this.layers.length;
      this.layers = this.layers.toSpliced(at, 0, layer);
      if (layer.kind !== "picture") this.active = layer.id;
    });
  }

  /** Put a picture on top of the pictures. Hints step back: what was asked for is there now. */
  accept(layer: Layer, label: string): void {
    this.structural(label, () => {
      const last = this.layers.findLastIndex((one) => one.kind === "picture");
      this.layers = this.layers
        .toSpliced(last + 1, 0, layer)
        .map((one) => (one.kind === "hint" ? { ...one, visible: false } : one));
    });
  }

  remove(id: string, label: string): void {
    this.structural(label, () => {
      const at = this.layers.findIndex((one) => one.id === id);
      this.layers = this.layers.filter((one) => one.id !== id);
      if (this.active === id) this.active = (this.layers[Math.max(at - 1, 0)] ?? this.layers[0])?.id ?? "";
    });
  }

  move(id: string, by: 1 | -1, label: string): void {
    const at = this.layers.findIndex((one) => one.id === id);
    const layer = this.layers[at];
    if (layer === undefined || this.layers[at + by] === undefined) return;
    this.structural(label, () => {
      this.layers = this.layers.toSpliced(at, 1).toSpliced(at + by, 0, layer);
    });
  }

  duplicate(id: string, name: string, label: string): void {
    const layer = this.layers.find((one) => one.id === id);
    if (layer === undefined) return;
    const made: Layer =
      layer.kind === "mask"
        ? { ...layer, id: newId(), name, locked: false, pixels: new MaskPixels(copied(layer.pixels.mask)) }
        : { ...layer, id: newId(), name, locked: false, pixels: layer.pixels.copy() };
    this.structural(label, () => {
      const at = this.layers.findIndex((one) => one.id === id);
      this.layers = this.layers.toSpliced(at + 1, 0, made);
      this.active = made.id;
    });
  }

  /** The nearest layer below of the same kind, which a layer can be merged with. */
  below(id: string): Layer | null {
    const at = this.layers.findIndex((one) => one.id === id);
    const layer = this.layers[at];
    if (layer === undefined || layer.kind === "hint") return null;
    return this.layers.slice(0, at).findLast((one) => one.kind === layer.kind) ?? null;
  }

  mergeDown(id: string, label: string): void {
    const layer = this.layers.find((one) => one.id === id);
    const lower = this.below(id);
    if (layer === undefined || lower === null) return;
    let merged: Layer;
    if (layer.kind === "mask" && lower.kind === "mask") {
      merged = {
        ...lower,
        pixels: new MaskPixels(combined([lower.pixels.mask, layer.pixels.mask], this.size)),
      };
    } else if (layer.kind === "picture" && lower.kind === "picture") {
      const pixels = Pixels.empty(this.size);
      for (const one of [lower, layer]) {
        pixels.context.globalAlpha = one.visible ? one.opacity : 0;
        pixels.context.drawImage(one.pixels.canvas, 0, 0);
      }
      merged = { ...lower, opacity: 1, visible: true, pixels };
    } else return;
    this.structural(label, () => {
      this.layers = this.layers
        .filter((one) => one.id !== id)
        .map((one) => (one.id === lower.id ? merged : one));
      this.active = lower.id;
    });
  }

  /** What a layer shows, as a layer of another kind: a picture as a hint, its brightness as a mask, a mask as a picture. */
  convert(id: string, kind: Kind, name: string, label: string): void {
    const layer = this.layers.find((one) => one.id === id);
    if (layer === undefined || layer.kind === kind) return;
    if (kind === "mask" && layer.kind !== "mask") {
      this.add(newLayer("mask", name, new MaskPixels(ofPicture(layer.pixels.data(), this.size))), label);
    } else if (kind === "hint" || kind === "picture") {
      const pixels = layer.kind === "mask" ? greyOf(layer.pixels.mask) : layer.pixels.still();
      this.add(newLayer(kind, name, pixels), label);
    }
  }

  // ---- size ----------------------------------------------------------------------------------------------------------

  /** Cut or extend the document to a rectangle, in its pixels, and put layers on top, in pixels of what it is then. */
  reframe(rect: Rect, label: string, added: Layer[] = []): void {
    this.structural(label, () => {
      this.resize(rect);
      for (const layer of added) {
        const last = this.layers.findLastIndex((one) => one.kind === layer.kind);
        this.layers = this.layers.toSpliced(last + 1, 0, layer);
      }
    });
  }

  private resize(rect: Rect): void {
    this.layers = this.layers.map((one): Layer => {
      if (one.kind === "mask") return { ...one, pixels: one.pixels.framed(rect) };
      const pixels = one.pixels.framed(rect);
      return one.kind === "hint"
        ? { ...one, pixels, control: { ...one.control, asset: null } }
        : { ...one, pixels };
    });
    this.width = rect.w;
    this.height = rect.h;
    this.origin = { x: this.origin.x + rect.x, y: this.origin.y + rect.y };
  }

  // ---- what is sent --------------------------------------------------------------------------------------------------

  /** The visible pictures as one, on white. */
  flattened(): Pixels {
    const pixels = Pixels.empty(this.size);
    const context = pixels.context;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, this.width, this.height);
    for (const one of this.layers) {
      if (one.kind !== "picture" || !one.visible) continue;
      context.globalAlpha = one.opacity;
      context.drawImage(one.pixels.canvas, 0, 0);
    }
    return pixels;
  }

  /** The visible masks as one. */
  mask(): Mask {
    return combined(
      this.masks.filter((one) => one.visible).map((one) => one.pixels.mask),
      this.size,
    );
  }
}

/** A change of a mask that is under way. */
export class Painting {
  private readonly touched: Touched;

  constructor(
    private readonly easel: Easel,
    readonly layer: MaskLayer,
    private readonly label: string,
    private readonly add: (step: Step) => void,
  ) {
    this.touched = new Touched(layer.pixels.mask);
  }

  get mask(): Mask {
    return this.layer.pixels.mask;
  }

  touch(rect: Rect): void {
    this.touched.touch(rect);
  }

  changed(rect: Rect): void {
    this.layer.pixels.show(rect);
    this.easel.damage(rect);
  }

  /** Returns whether anything is other than before. */
  end(): boolean {
    const change = this.touched.done();
    if (change === null) return false;
    const swap = (): void => this.changed(change.swap());
    this.add({ label: this.label, undo: swap, redo: swap, size: change.size });
    return true;
  }

  /** As if it had not been begun. */
  abandon(): void {
    const change = this.touched.done();
    if (change !== null) this.changed(change.swap());
  }
}

/** A stroke of colour that is under way: painted into a mask, which is laid over what was there before. */
export class ColourPainting {
  readonly mask: Mask;
  private readonly bytes: Mask; // the picture, as bytes in rows, for undoing
  private readonly before: Uint8ClampedArray;
  private readonly touched: Touched;

  constructor(
    private readonly easel: Easel,
    private readonly pixels: Painted,
    private readonly colour: Colour | null,
    private readonly done: (change: Omit<Step, "label"> | null) => void,
  ) {
    this.mask = newMask(pixels.width, pixels.height);
    const { rgba } = pixels;
    this.bytes = { width: 4 * pixels.width, height: pixels.height, data: new Uint8Array(rgba.buffer) };
    this.before = rgba.slice();
    this.touched = new Touched(this.bytes);
  }

  touch(rect: Rect): void {
    this.touched.touch({ ...rect, x: 4 * rect.x, w: 4 * rect.w });
  }

  changed(rect: Rect): void {
    const area = intersect(rect, whole(this.pixels));
    laid(this.pixels.rgba, this.before, this.mask, area, this.colour);
    this.show(area);
  }

  private show(rect: Rect): void {
    this.pixels.show(rect);
    this.easel.damage(rect);
  }

  end(): boolean {
    const change = this.touched.done();
    if (change === null) {
      this.done(null);
      return false;
    }
    const swap = (): void => {
      const area = change.swap();
      this.show({ ...area, x: Math.floor(area.x / 4), w: Math.ceil(area.w / 4) });
    };
    this.done({ undo: swap, redo: swap, size: change.size });
    return true;
  }

  abandon(): void {
    const change = this.touched.done();
    change?.swap();
    this.show(whole(this.pixels));
    this.done(null);
  }
}

export function newLayer(kind: "picture", name: string, pixels: Pixels): Layer;
export function newLayer(kind: "mask", name: string, pixels: MaskPixels): Layer;
export function newLayer(kind: "hint" | "picture", name: string, pixels: Pixels): Layer;
export function newLayer(kind: Kind, name: string, pixels: Pixels | MaskPixels): Layer {
  const base = { id: newId(), name, visible: true, locked: false };
  if (kind === "mask") return { ...base, kind, opacity: 0.6, pixels: pixels as MaskPixels };
  if (kind === "picture") return { ...base, kind, opacity: 1, pixels: pixels as Pixels };
  const control = { model: "", weight: 1, start: 0, end: 1, preprocessor: "", asset: null };
  return { ...base, kind, opacity: 0.8, pixels: pixels as Pixels, control };
}

function greyOf(mask: Mask): Pixels {
  const rgba = new Uint8ClampedArray(4 * mask.data.length);
  for (let i = 0; i < mask.data.length; i++) {
    rgba.fill(mask.data[i] as number, 4 * i, 4 * i + 3);
    rgba[4 * i + 3] = 255;
  }
  return Pixels.ofData(rgba, mask);
}

export const NO_SIDES: Sides = [0, 0, 0, 0];
