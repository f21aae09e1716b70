/** Files that are dropped on the page: which of them are models. */

const ENDINGS = [".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin"];

/** By its name alone: what is inside, the server finds out. */
export function isModelFile(file: { readonly name: string }): boolean {
  const name = file.name.toLowerCase();
  return ENDINGS.some((ending) => name.endsWith(ending));
}

/** What a model is called that comes from a file: its name without the ending. */
export function modelName(file: string): string {
  const ending = ENDINGS.find((one) => file.toLowerCase().endsWith(one));
  return ending ? file.slice(0, -ending.length) : file;
}
