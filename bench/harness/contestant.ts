import type { Source } from './source.ts'

/** What a contestant gets to build its server from. */
export interface Material {
  readonly source: Source
  /** Interval of its keep-alive comments; without it, what its documentation has as the default. */
  readonly heartbeatMs: number | undefined
  /** A finished stream to serve at `/history`, by `Last-Event-ID`. */
  readonly history: History | undefined
  /** Clients that will come at once, for the contestants that have a limit. */
  readonly clients: number
  /** Absent: the process is alone. */
  readonly store: StoreSetting | undefined
}

/** The store that an instance shares with others. */
export interface StoreSetting {
  readonly port: number
  /** Without them, the defaults. */
  readonly pollMs?: number
  readonly leaseMs?: number
}

export interface History {
  readonly events: number
  readonly bytes: number
}

/**
 * A server on 127.0.0.1 with `/feed` (one generator, every client), `/tokens` (a generator per request), for some also
 * `/history` and `/ping`.
 */
export interface Running {
  readonly port: number
  /** Questions of one workload that only this contestant can answer, asked from the runner's process. */
  readonly operations?: Readonly<Record<string, (argument: never) => unknown>>
}

/** The shape of every module in `contestants/`. */
export interface ContestantModule {
  start(material: Material): Promise<Running>
}

/** Name in tables and on the command line → module in `contestants/`. */
export const CONTESTANTS = {
  socket: 'socket',
  'socket-batch': 'socket-batch',
  'res.write': 'res-write',
  'res.write per client': 'res-write-per-client',
  '@fastify/sse': 'fastify-sse',
  'better-sse': 'better-sse',
  'fastify-sse-v2': 'fastify-sse-v2',
  ours: 'ours',
  // With a store: the process that produces, and another one.
  'ours at home': 'ours',
  'ours elsewhere': 'ours',
  'resumable-stream': 'resumable-stream',
  'reply.send': 'reply-send',
  'res.write ignored': 'res-write-ignored'
} as const

export type ContestantName = keyof typeof CONTESTANTS

/** The packages that a user would otherwise pick. */
export const PEERS: readonly ContestantName[] = ['@fastify/sse', 'better-sse', 'fastify-sse-v2']
