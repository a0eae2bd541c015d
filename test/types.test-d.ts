// Checked by tsc alone, never run: what the public types accept and refuse.
import type { FastifyInstance, FastifyPluginCallback, FastifyReply } from 'fastify'
import type {
  AttachOptions,
  Backpressure,
  RegistryStats,
  SseInput,
  SseMessage,
  SseStreams,
  StreamContext,
  StreamHandler,
  StreamInfo,
  StreamOptions,
  StreamOutcome,
  StreamPluginOptions
} from '../src/index.ts'
import streamPlugin, { streamPlugin as named } from '../src/index.ts'

declare const reply: FastifyReply
declare const fastify: FastifyInstance
declare const tokens: (signal: AbortSignal) => AsyncIterable<string>
interface Chunk {
  readonly text: string
}
declare const chunks: (signal: AbortSignal) => AsyncIterable<Chunk>

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
function expectTrue<_ extends true>(): void {}

// ── registration ───────────────────────────────────────────────────────────────────────────────────────────────────────

const plugin: FastifyPluginCallback<StreamPluginOptions> = streamPlugin
void (named satisfies typeof plugin)
void fastify.register(streamPlugin)
void fastify.register(streamPlugin, { prefix: '/api', bufferTTL: 1, retry: false, owner: (request) => request.ip })
void fastify.register(streamPlugin, { bufferTTL: undefined, owner: undefined })
// @ts-expect-error -- a misspelled option
void fastify.register(streamPlugin, { bufferTtl: 1 })
// @ts-expect-error -- times are numbers
void fastify.register(streamPlugin, { bufferTTL: '10m' })
// @ts-expect-error -- true is no delay
void fastify.register(streamPlugin, { retry: true })
// @ts-expect-error -- an owner is a string
void fastify.register(streamPlugin, { owner: () => undefined })
// @ts-expect-error -- not an option of the plugin
void fastify.register(streamPlugin, { streamId: 'a' })
expectTrue<Equal<Backpressure, 'fastest' | 'slowest' | 'none'>>()

// ── sseFromGenerator ───────────────────────────────────────────────────────────────────────────────────────────────────

expectTrue<Equal<ReturnType<FastifyReply['sseFromGenerator']>, FastifyReply>>()
reply.sseFromGenerator(tokens)
reply.sseFromGenerator((signal) => tokens(signal))
reply.sseFromGenerator(async (signal) => tokens(signal))
reply.sseFromGenerator(() => ['a', { data: 1 }])
reply.sseFromGenerator(() => new Set(['a']))
reply.sseFromGenerator(function* () {
  yield 'a'
})
reply.sseFromGenerator(async function* (signal, context) {
  expectTrue<Equal<typeof signal, AbortSignal>>()
  expectTrue<Equal<typeof context, StreamContext>>()
  yield { event: 'token', data: { any: ['thing'] }, retry: 1, comment: 'c' }
  yield 'a'
})
reply.sseFromGenerator(tokens, { streamId: 'a', owner: 'ada', from: 'live', onLost: 'restart', lastEventId: 'x' })
reply.sseFromGenerator(tokens, { streamId: undefined, signal: AbortSignal.timeout(1), serialize: String })
// @ts-expect-error -- numbers are no events
reply.sseFromGenerator(() => [1, 2])
// @ts-expect-error -- an object needs data
reply.sseFromGenerator(() => [{ event: 'x' }])
// @ts-expect-error -- chunks need a map
reply.sseFromGenerator(chunks)
// @ts-expect-error -- a generator object is no handler
reply.sseFromGenerator(tokens(AbortSignal.abort()))
// @ts-expect-error -- only start and live
reply.sseFromGenerator(tokens, { from: 'end' })
// @ts-expect-error -- an option of the plugin, not of a call
reply.sseFromGenerator(tokens, { maxActiveStreams: 1 })
// @ts-expect-error -- an option of sseAttach
reply.sseFromGenerator(tokens, { missing: 204 })

// ── map ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

reply.sseFromGenerator(chunks, {
  map: (chunk) => {
    expectTrue<Equal<typeof chunk, Chunk>>()
    return { data: chunk.text }
  }
})
reply.sseFromGenerator(chunks, { streamId: 'a', map: (chunk) => chunk.text })
reply.sseFromGenerator((signal) => chunks(signal), { streamId: 'a', map: ({ text }) => ({ data: text }) })
reply.sseFromGenerator(() => [1, 2], { map: (value) => value.toFixed(1) })
// @ts-expect-error -- a map makes events
reply.sseFromGenerator(chunks, { map: (chunk) => chunk.text.length })
// @ts-expect-error -- a map takes what the generator yields
reply.sseFromGenerator(chunks, { map: (value: number) => String(value) })

// ── sseAttach ──────────────────────────────────────────────────────────────────────────────────────────────────────────

expectTrue<Equal<ReturnType<FastifyReply['sseAttach']>, FastifyReply>>()
reply.sseAttach('a')
reply.sseAttach('a', { owner: 'ada', missing: 204, finished: 204, from: 'live', retry: false } satisfies AttachOptions)
// @ts-expect-error -- a stream has a name
reply.sseAttach()
// @ts-expect-error -- attaching never restarts
reply.sseAttach('a', { onLost: 'restart' })
// @ts-expect-error -- an option of the stream
reply.sseAttach('a', { bufferTTL: 1 })

// ── sseStreams ─────────────────────────────────────────────────────────────────────────────────────────────────────────

expectTrue<Equal<FastifyInstance['sseStreams'], SseStreams>>()
const streams = fastify.sseStreams
expectTrue<Equal<typeof streams.size, number>>()
expectTrue<Equal<ReturnType<typeof streams.get>, StreamInfo | undefined>>()
expectTrue<Equal<ReturnType<typeof streams.list>, StreamInfo[]>>()
expectTrue<Equal<ReturnType<typeof streams.stats>, RegistryStats>>()
expectTrue<Equal<ReturnType<typeof streams.abort>, Promise<boolean>>>()
expectTrue<Equal<ReturnType<typeof streams.abortAll>, number>>()
expectTrue<Equal<ReturnType<typeof streams.start>, Promise<StreamInfo>>>()
void streams.start(tokens, { streamId: 'a', owner: 'ada' })
void streams.start(chunks, { streamId: 'a', map: (chunk) => chunk.text })
void streams.abort('a', { owner: 'ada', reason: 'stop' })
// @ts-expect-error -- chunks need a map
void streams.start(chunks)
// @ts-expect-error -- reading only
streams.size = 1
// @ts-expect-error -- a decorator is not replaced
fastify.sseStreams = streams
expectTrue<Equal<StreamInfo['state'], 'running' | 'finished'>>()
expectTrue<Equal<StreamOutcome, 'completed' | 'failed' | 'aborted' | 'evicted' | 'lost'>>()

// ── what users write down ──────────────────────────────────────────────────────────────────────────────────────────────

const handler: StreamHandler<SseInput> = async function* (signal, { streamId, owner, log }) {
  log.info({ streamId, owner, isAborted: signal.aborted })
  yield 'a'
}
reply.sseFromGenerator(handler, {} satisfies StreamOptions)
const message: SseMessage = { data: null }
reply.sseFromGenerator(() => [message])
// @ts-expect-error -- ids are made by the plugin
void ({ data: 'x', id: '7' } satisfies SseMessage)
