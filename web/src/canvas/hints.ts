// Preprocessors: what makes a hint of a picture. They run on the server, and what they made is seen before it is used.

import { api, data, type Asset } from "../api";

export interface Parameter {
  name: string;
  help: string;
  default: number;
  low: number;
  high: number;
  whole: boolean;
}

export interface Preprocessor {
  name: string;
  help: string;
  needs_mask: boolean;
  available: boolean;
  parameters: Parameter[];
}

interface Asked {
  preprocessor: string;
  image: string;
  mask: string | null;
  width: number;
  height: number;
  parameters: Record<string, number>;
}

export const hints = {
  async list(): Promise<Preprocessor[]> {
    const found = await data(api.GET("/v1/preprocessors"));
    return found.preprocessors.filter((one) => one.available);
  },
  async make(asked: Asked): Promise<Asset> {
    return await data(api.POST("/v1/hints", { body: asked }));
  },
};
