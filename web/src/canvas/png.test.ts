import { inflateSync } from "node:zlib";
import { expect, test } from "vitest";
import { crc32, encodePng, withoutAlpha, type Channels } from "./png";

/** Decodes what `encodePng` writes, checking every checksum. */
async function decode(
  blob: Blob,
): Promise<{ width: number; height: number; type: number; data: Uint8Array }> {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  expect([...bytes.subarray(0, 8)]).toEqual([137, 80, 78, 71, 13, 10, 26, 10]);
  const view = new DataView(bytes.buffer);
  let [at, width, height, type] = [8, 0, 0, 0];
  let packed = new Uint8Array();
  while (at < bytes.length) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    expect(view.getUint32(at + 8 + length)).toBe(crc32(bytes.subarray(at + 4, at + 8 + length)));
    if (name === "IHDR") {
      [width, height, type] = [view.getUint32(at + 8), view.getUint32(at + 12), bytes[at + 17] as number];
    } else if (name === "IDAT") packed = bytes.slice(at + 8, at + 8 + length);
    at += 12 + length;
  }
  const rows = inflateSync(packed);
  const line = width * ({ 0: 1, 2: 3, 6: 4 }[type] as number);
  const data = new Uint8Array(line * height);
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < line; i++) {
      const above = rows[y * (line + 1)] === 2 && y > 0 ? (data[(y - 1) * line + i] as number) : 0;
      data[y * line + i] = (rows[y * (line + 1) + 1 + i] as number) + above;
    }
  }
  return { width, height, type, data };
}

test.each([
  [1, 0],
  [3, 2],
  [4, 6],
] as [Channels, number][])("%i channels come back exactly", async (channels, type) => {
  const data = Uint8Array.from({ length: 37 * 23 * channels }, (_, i) => (i * 7919 + (i >> 3) * 31) & 255);
  expect(await decode(await encodePng(37, 23, channels, data))).toEqual({
    width: 37,
    height: 23,
    type,
    data,
  });
});

test("a wrong size is refused", async () => {
  await expect(encodePng(4, 4, 1, new Uint8Array(15))).rejects.toThrow("15 bytes, expected 4 x 4 x 1");
});

test("the check value of CRC-32", () => {
  expect(crc32(new TextEncoder().encode("123456789"))).toBe(0xcbf43926);
});

test("colours without alpha", () => {
  expect([...withoutAlpha(new Uint8ClampedArray([1, 2, 3, 255, 4, 5, 6, 0]))]).toEqual([1, 2, 3, 4, 5, 6]);
});
