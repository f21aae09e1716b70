// What layers hold. Pictures and hints are canvases; a mask is bytes, with a tinted canvas that shows it.

import { intersect, isEmpty, whole, type Rect, type Size } from "./geometry";
import { framed, newMask, type Mask } from "./mask";

export type Kind = "picture" | "mask" | "hint";

/** A canvas of the size of the document, or smaller and at a place in it. It is never changed once it is in a layer, but
 * for `Painted`. */
export class Pixels {
  /** Counts changes. */
  version = 0;

  constructor(readonly canvas: HTMLCanvasElement) {}

  static empty(size: Size): Pixels {
    const canvas = document.createElement("canvas");
    canvas.width = size.width;
    canvas.height = size.height;
    return new Pixels(canvas);
  }

  /** A picture drawn over the whole of a size. */
  static of(image: CanvasImageSource, size: Size): Pixels {
    const pixels = Pixels.empty(size);
    const context = pixels.context;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, size.width, size.height);
    return pixels;
  }

  static ofData(rgba: Uint8ClampedArray, size: Size): Pixels {
    const pixels = Pixels.empty(size);
    pixels.context.putImageData(
      new ImageData(rgba as Uint8ClampedArray<ArrayBuffer>, size.width, size.height),
      0,
      0,
    );
    return pixels;
  }

  get width(): number {
    return this.canvas.width;
  }
  get height(): number {
    return this.canvas.height;
  }

  get context(): CanvasRenderingContext2D {
    return this.canvas.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;
  }

  data(): Uint8ClampedArray {
    return this.context.getImageData(0, 0, this.width, this.height).data;
  }

  /** The same for another layer. */
  copy(): Pixels {
    return this;
  }
  /** The same, and never changed. */
  still(): Pixels {
    return this;
  }

  /** What lies in a rectangle, which may reach beyond; there it is clear. */
  framed(rect: Rect): Pixels {
    const pixels = Pixels.empty({ width: rect.w, height: rect.h });
    pixels.context.drawImage(this.canvas, -rect.x, -rect.y);
    return pixels;
  }
}

/** A picture that colour is painted on: the one kind of pixels that changes while it is in a layer. */
export class Painted extends Pixels {
  /** Four bytes a pixel, red first. */
  readonly rgba: Uint8ClampedArray;

  constructor(from: Pixels) {
    super(from.canvas);
    this.rgba = from.data();
  }

  override data(): Uint8ClampedArray {
    return this.rgba.slice();
  }
  override copy(): Painted {
    return new Painted(this.still());
  }
  override still(): Pixels {
    return Pixels.ofData(this.rgba, this);
  }

  /** Brings the canvas up to the bytes, in a rectangle. */
  show(rect: Rect): void {
    const area = intersect(rect, whole(this));
    if (isEmpty(area)) return;
    const image = new ImageData(area.w, area.h);
    for (let row = 0; row < area.h; row++) {
      const from = 4 * ((area.y + row) * this.width + area.x);
      image.data.set(this.rgba.subarray(from, from + 4 * area.w), 4 * row * area.w);
    }
    this.context.putImageData(image, area.x, area.y);
    this.version += 1;
  }

  override framed(rect: Rect): Painted {
    return new Painted(super.framed(rect));
  }
}

const rgb = (r: number, g: number, b: number): number => (b << 16) | (g << 8) | r;
const TINT = rgb(214, 51, 108); // --mask, in bytes
const STRIPE = rgb(255, 214, 230);

const MOST_SPARE = 2 ** 20; // pixels that are kept to be used again

/** A mask and how it is shown. */
export class MaskPixels {
  readonly canvas: HTMLCanvasElement;
  private readonly context: CanvasRenderingContext2D;
  private period = 8; // of the stripes, a power of two
  private spare: ImageData | null = null; // a stroke's parts, one after the other, are as large: no new one for each

  constructor(readonly mask: Mask) {
    this.canvas = document.createElement("canvas");
    this.canvas.width = mask.width;
    this.canvas.height = mask.height;
    this.context = this.canvas.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;
    this.show(whole(mask));
  }

  static empty(size: Size): MaskPixels {
    return new MaskPixels(newMask(size.width, size.height));
  }

  get width(): number {
    return this.mask.width;
  }
  get height(): number {
    return this.mask.height;
  }

  /** Brings what is shown up to what is held, in a rectangle. */
  show(rect: Rect): void {
    const area = intersect(rect, whole(this.mask));
    if (isEmpty(area)) return;
    const image = this.room(area);
    // One 32-bit write a pixel; the bytes of a pixel stand in the order of the machine, which is little-endian for all
    // browsers that there are.
    const out = new Int32Array(image.data.buffer);
    const { data, width } = this.mask;
    const { period } = this;
    // Stripes over the tint are seen on a picture of any colour.
    const tints = Int32Array.from({ length: period }, (_, i) => (4 * i < period ? STRIPE : TINT));
    for (let row = 0; row < area.h; row++) {
      const from = (area.y + row) * width + area.x;
      const diagonal = area.x + area.y + row;
      const to = row * image.width;
      for (let i = 0; i < area.w; i++) {
        const tint = tints[(diagonal + i) & (period - 1)] as number;
        out[to + i] = ((data[from + i] as number) << 24) | tint;
      }
    }
    this.context.putImageData(image, area.x, area.y, 0, 0, area.w, area.h);
  }

  /** Room for the pixels of a rectangle, in its corner. */
  private room(area: Rect): ImageData {
    const old = this.spare;
    if (old !== null && old.width >= area.w && old.height >= area.h) return old;
    const [width, height] = [Math.max(area.w, old?.width ?? 0), Math.max(area.h, old?.height ?? 0)];
    if (width * height > MOST_SPARE) return new ImageData(area.w, area.h);
    return (this.spare = new ImageData(width, height));
  }

  /** Stripes that are about as wide on the screen at any scale. */
  fit(scale: number): void {
    const period = 2 ** Math.min(Math.max(Math.round(Math.log2(12 / scale)), 2), 8);
    if (period === this.period) return;
    this.period = period;
    this.show(whole(this.mask));
  }

  framed(rect: Rect): MaskPixels {
    return new MaskPixels(framed(this.mask, rect));
  }
}

/** How a hint steers the model. */
export interface Control {
  /** Name of the ControlNet or other adapter; "" until one is chosen. */
  model: string;
  weight: number;
  start: number;
  end: number;
  /** What made the hint, for people: "canny". "" if it is a picture as it is. */
  preprocessor: string;
  /** The hint as the server holds it, while it is unchanged here. */
  asset: string | null;
}

interface Base {
  id: string;
  name: string;
  visible: boolean;
  locked: boolean;
  /** 0 to 1. For masks and hints only how they are shown. */
  opacity: number;
}

export type PictureLayer = Base & { kind: "picture"; pixels: Pixels };
export type MaskLayer = Base & { kind: "mask"; pixels: MaskPixels };
export type HintLayer = Base & { kind: "hint"; pixels: Pixels; control: Control };
export type Layer = PictureLayer | MaskLayer | HintLayer;

export const NO_CONTROL: Control = { model: "", weight: 1, start: 0, end: 1, preprocessor: "", asset: null };
