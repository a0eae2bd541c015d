/** Gauges and counters of one registry, as `sseStreams.stats()` returns them. */
export interface RegistryStats {
  /** Running streams. An evicted one counts until its generator is let go. */
  readonly running: number
  /** Finished streams that are retained. */
  readonly finished: number
  /** Streams that run, or ran, on another instance; 0 without a store. */
  readonly replicas: number
  /** Attached responses. */
  readonly clients: number
  /** Events in the logs of all retained streams. */
  readonly bufferedEvents: number
  /** Memory that all logs hold: whole segments, those that only a slow socket still needs included. */
  readonly bufferedBytes: number
  /** Streams that were started: `running` + `completed` + `failed` + `aborted` + `evicted` + `lost`. */
  readonly started: number
  readonly completed: number
  readonly failed: number
  readonly aborted: number
  readonly evicted: number
  /** Taken from this process, since the store had no sign of life of it for too long; 0 without a store. */
  readonly lost: number
  /** Removed when their `bufferTTL` was over. */
  readonly expired: number
  /** Removed to make room, running or finished. */
  readonly removedForCapacity: number
  /** Events that were appended. */
  readonly events: number
  /** Responses that were attached. */
  readonly attached: number
  /** Responses that went on exactly where their cursor stood. */
  readonly resumed: number
  /** Gaps that clients were told of. */
  readonly gaps: number
  /** Events that were there before the client that they were sent to. */
  readonly replayedEvents: number
  /** Clients that were cut off because their socket took nothing. */
  readonly stalledClients: number
  /** Requests that were refused: registry full, too many streams, too many clients, shutting down. */
  readonly rejected: number
}

/** The part of {@link RegistryStats} that only ever grows. */
export type Counters = { -readonly [Name in Exclude<keyof RegistryStats, Gauge>]: number }

type Gauge = 'running' | 'finished' | 'replicas' | 'clients' | 'bufferedEvents' | 'bufferedBytes'

export function createCounters(): Counters {
  return {
    started: 0,
    completed: 0,
    failed: 0,
    aborted: 0,
    evicted: 0,
    lost: 0,
    expired: 0,
    removedForCapacity: 0,
    events: 0,
    attached: 0,
    resumed: 0,
    gaps: 0,
    replayedEvents: 0,
    stalledClients: 0,
    rejected: 0
  }
}
