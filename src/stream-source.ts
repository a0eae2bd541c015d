import type { FastifyBaseLogger } from 'fastify'
import type { StreamState } from './answer.ts'
import type { Cursor } from './cursor.ts'
import type { EventStream } from './event-stream.ts'
import type { StreamCall } from './settings.ts'

/** What a handler is told of the stream that it fills. */
export interface StreamContext {
  readonly streamId: string
  readonly owner: string | undefined
  /** Of the request that started the stream, with the `streamId`. */
  readonly log: FastifyBaseLogger
}

/** Makes what a stream pulls. */
export type Handler = (signal: AbortSignal, context: StreamContext) => unknown

/** What starts a stream. */
export interface StartRequest {
  readonly handler: Handler
  readonly call: StreamCall
  readonly owner: string | undefined
  /** Of an unnamed stream. */
  readonly route: string | undefined
  readonly log: FastifyBaseLogger
  /** Where they were fixed beforehand; else the stream makes its own. */
  readonly epoch?: string
  readonly startedAt?: number
}

/** What `findOrStart()` comes to. */
export interface Found {
  readonly stream: EventStream
  /** Started by this very call. */
  readonly isNew: boolean
}

/** Undefined where there is no such stream. */
export type Sought = EventStream | undefined

/** Where requests find their streams. Without a store everything is there at once. */
export interface StreamSource {
  find(streamId: string, owner: string | undefined, cursor: Cursor): Sought | Promise<Sought>
  /** An unnamed stream: its cursor leads to it, inside its owner's namespace and on the route that made it. */
  findByCursor(cursor: Cursor, owner: string | undefined, route: string): Sought | Promise<Sought>
  /** What there is of this name, for whoever is not served from it. */
  peek(streamId: string, owner: string | undefined): StreamState | undefined | Promise<StreamState | undefined>
  /** The stream of this name, started if there is none; one whose process died counts as none where `replacesLost`. */
  findOrStart(request: StartRequest, replacesLost: boolean): Found | Promise<Found>
}

/** Whether a cursor leads to an unnamed stream: it has to be the very stream, and asked for on the route that made it. */
export function isReached(stream: Sought, epoch: string, route: string): boolean {
  return stream !== undefined && stream.route === route && stream.epoch === epoch
}

/** The context of one run. */
export class RunContext implements StreamContext {
  readonly streamId: string
  readonly owner: string | undefined
  readonly #parent: FastifyBaseLogger
  #log: FastifyBaseLogger | undefined

  constructor({ streamId, owner }: EventStream, parent: FastifyBaseLogger) {
    this.streamId = streamId
    this.owner = owner
    this.#parent = parent
  }

  // Most handlers never write a line.
  get log(): FastifyBaseLogger {
    return (this.#log ??= this.#parent.child({ streamId: this.streamId }))
  }
}
