// Writes PNG files of exactly the levels that are given. A browser's own encoder goes through a canvas, which mixes
// colours with transparency and may add noise against fingerprinting: a mask would not arrive as it was painted.

export type Channels = 1 | 3 | 4;
const COLOUR_TYPE: Record<Channels, number> = { 1: 0, 3: 2, 4: 6 };

const CRC = new Uint32Array(256).map((_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

export function crc32(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) c = (CRC[(c ^ byte) & 255] as number) ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

function chunk(name: string, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(12 + data.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) out[4 + i] = name.charCodeAt(i);
  out.set(data, 8);
  view.setUint32(8 + data.length, crc32(out.subarray(4, 8 + data.length)));
  return out;
}

async function deflated(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const stream = new Blob([data]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** data [height * width * channels], rows from the top; 1 grey, 3 RGB, 4 RGB with alpha that is not premultiplied. */
export async function encodePng(
  width: number,
  height: number,
  channels: Channels,
  data: Uint8Array | Uint8ClampedArray,
): Promise<Blob> {
  const line = width * channels;
  if (data.length !== line * height) {
    throw new RangeError(`${data.length} bytes, expected ${width} x ${height} x ${channels}`);
  }
  const rows = new Uint8Array((line + 1) * height);
  for (let y = 0; y < height; y++) {
    // "Up": the difference to the row above, which packs masks and drawings well.
    const to = y * (line + 1);
    rows[to] = y === 0 ? 0 : 2;
    for (let i = 0; i < line; i++) {
      const level = data[y * line + i] as number;
      rows[to + 1 + i] = y === 0 ? level : level - (data[(y - 1) * line + i] as number);
    }
  }
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, COLOUR_TYPE[channels], 0, 0, 0], 8);
  const parts = [
    new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]),
    chunk("IHDR", head),
    chunk("IDAT", await deflated(rows)),
    chunk("IEND", new Uint8Array(0)),
  ];
  return new Blob(parts as BlobPart[], { type: "image/png" });
}

/** The colours without their alpha. rgba [n * 4] -> [n * 3]. */
export function withoutAlpha(rgba: Uint8ClampedArray): Uint8ClampedArray {
  const out = new Uint8ClampedArray((rgba.length / 4) * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4, j += 3) {
    out[j] = rgba[i] as number;
    out[j + 1] = rgba[i + 1] as number;
    out[j + 2] = rgba[i + 2] as number;
  }
  return out;
}
