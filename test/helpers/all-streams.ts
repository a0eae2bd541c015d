import type {
  MappedStreamOptions,
  RegistryStats,
  SseInput,
  SseStreams,
  StreamHandler,
  StreamInfo,
  StreamOptions
} from '../../src/index.ts'

type Options = { owner?: string | undefined; reason?: string | undefined }

/** The streams of several instances as if they were those of one. */
export class AllStreams implements SseStreams {
  readonly #instances: readonly SseStreams[]
  #started = 0

  constructor(instances: readonly SseStreams[]) {
    this.#instances = instances
  }

  get size(): number {
    return this.list().length
  }

  /** What its home says, with the clients of all instances. */
  get(streamId: string, options?: Options): StreamInfo | undefined {
    const infos = this.#instances.flatMap((streams) => streams.get(streamId, options) ?? [])
    const info = infos.find(({ home }) => home) ?? infos[0]
    return info && { ...info, clients: infos.reduce((sum, { clients }) => sum + clients, 0) }
  }

  list(options?: Options): StreamInfo[] {
    const names = new Map(
      this.#instances
        .flatMap((streams) => streams.list(options))
        .map(({ streamId, owner }) => [JSON.stringify([streamId, owner]), { streamId, owner }])
    )
    return [...names.values()].flatMap(({ streamId, owner }) => this.get(streamId, { owner }) ?? [])
  }

  abortAll(reason?: string): number {
    return this.#instances.reduce((sum, streams) => sum + streams.abortAll(reason), 0)
  }

  stats(): RegistryStats {
    const all = this.#instances.map((streams) => streams.stats())
    const names = Object.keys(all[0] as RegistryStats) as (keyof RegistryStats)[]
    const sums = Object.fromEntries(names.map((name) => [name, all.reduce((sum, stats) => sum + stats[name], 0)]))
    // What a stream has is counted once, however many replicas there are of it.
    const infos = this.list()
    return {
      ...(sums as unknown as RegistryStats),
      finished: infos.filter(({ state }) => state === 'finished').length,
      bufferedEvents: infos.reduce((sum, { bufferedEvents }) => sum + bufferedEvents, 0),
      bufferedBytes: infos.reduce((sum, { bufferedBytes }) => sum + bufferedBytes, 0)
    }
  }

  /** At one instance after the other. */
  start<T>(handler: StreamHandler<T>, options: MappedStreamOptions<T>): Promise<StreamInfo>
  start<T extends SseInput>(handler: StreamHandler<T>, options?: StreamOptions): Promise<StreamInfo>
  start(handler: StreamHandler<SseInput>, options?: StreamOptions): Promise<StreamInfo> {
    return this.#at(this.#started++).start(handler, options)
  }

  /** Asked at an instance that does not run it. */
  async find(streamId: string, options?: Options): Promise<StreamInfo | undefined> {
    return this.#elsewhere(streamId, options).find(streamId, options)
  }

  /** Asked at an instance that does not run it. */
  async abort(streamId: string, options?: Options): Promise<boolean> {
    return this.#elsewhere(streamId, { owner: options?.owner }).abort(streamId, options)
  }

  #elsewhere(streamId: string, options?: Options): SseStreams {
    return this.#instances.find((streams) => streams.get(streamId, options)?.home !== true) ?? this.#at(0)
  }

  #at(index: number): SseStreams {
    return this.#instances[index % this.#instances.length] as SseStreams
  }
}
