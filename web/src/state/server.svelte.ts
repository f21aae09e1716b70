// What the server has to draw with: models, adapters, samplers, schedules. Asked once, and anew when something was added.

import { api, data, type Adapter, type Model, type Sampler, type Schedule } from "../api";
import { onChanged } from "./tabs";

let models = $state.raw<Model[]>([]);
let adapters = $state.raw<Adapter[]>([]);
let samplers = $state.raw<Sampler[]>([]);
let schedules = $state.raw<Schedule[]>([]);
let isRead = $state(false);

export const server = {
  get models(): Model[] {
    return models;
  },
  get adapters(): Adapter[] {
    return adapters;
  },
  get samplers(): Sampler[] {
    return samplers;
  },
  get schedules(): Schedule[] {
    return schedules;
  },
  /** Whether it was asked yet. */
  get isRead(): boolean {
    return isRead;
  },
  model(name: string): Model | undefined {
    return models.find((one) => one.name === name);
  },
  /** Whether a model draws small pictures alone, and is out of its depth beyond them. */
  isSmall(name: string): boolean {
    const defaults = server.model(name)?.defaults;
    return defaults !== undefined && defaults.width * defaults.height <= 256 * 256;
  },
  /** Ask anew. Throws `Problem`. */
  async read(): Promise<void> {
    const [m, a, s, t] = await Promise.all([
      data(api.GET("/v1/models")),
      data(api.GET("/v1/adapters")),
      data(api.GET("/v1/samplers")),
      data(api.GET("/v1/schedules")),
    ]);
    models = m.models;
    adapters = a.adapters;
    samplers = s.samplers;
    schedules = t.schedules;
    isRead = true;
  },
};

onChanged("models", () => void server.read().catch(() => undefined));
