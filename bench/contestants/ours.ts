/**
 * This plugin, compiled, through Fastify, with its defaults; a limit is raised where the workload is
 * larger than the default allows. `BENCH_PLUGIN` names another build, to compare two.
 */
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import type { Material, Running, StoreSetting } from '../harness/contestant.ts'
import { held } from '../harness/meter.ts'
import { bodyOf, valueOf } from '../harness/source.ts'
import { listenFastify } from './listen.ts'

/** What the benchmark uses of the plugin. The build is found at run time: it is no dependency of `bench/`. */
type Handler = () => AsyncIterable<string>
interface StreamReply {
  sseFromGenerator(handler: Handler, options?: object): StreamReply
  sseAttach(streamId: string): StreamReply
}
interface Streams {
  start(handler: Handler, options?: object): Promise<{ streamId: string }>
  stats(): { running: number; finished: number; bufferedBytes: number }
}
interface PluginModule {
  default: (instance: FastifyInstance, options: object) => Promise<void>
}

interface StoreModule {
  redisStore: (client: Redis, options: object) => unknown
}

const BUILD = process.env.BENCH_PLUGIN ?? new URL('../plugin/index.js', import.meta.url).href
const { default: streamPlugin } = (await import(BUILD)) as PluginModule

const GIBIBYTE = 2 ** 30
/** Defaults of the plugin that a workload may exceed. */
const MAX_CLIENTS = 1_000
const MAX_STREAMS = 1_000
const MAX_EVENTS = 10_000

export async function start({ source, heartbeatMs, history, clients, store }: Material): Promise<Running> {
  const fastify = await createApp({
    ...(clients > MAX_CLIENTS ? { maxClientsPerStream: clients } : {}),
    ...(clients >= MAX_STREAMS ? { maxActiveStreams: clients + 1 } : {}),
    ...(heartbeatMs === undefined ? {} : { heartbeatInterval: heartbeatMs }),
    ...(store === undefined ? {} : { store: await storeOf(store) })
  })
  fastify.get('/feed', (_request, reply) => replyOf(reply).sseFromGenerator(() => source.feed(), { streamId: 'feed' }))
  fastify.get('/tokens', (_request, reply) => replyOf(reply).sseFromGenerator(() => source.tokens()))
  fastify.get('/history', (_request, reply) => replyOf(reply).sseAttach('history'))
  fastify.get('/ping', async () => ({ pong: true }))
  const port = await listenFastify(fastify)
  if (history !== undefined) {
    const limits = history.events > MAX_EVENTS ? { bufferSize: history.events, bufferBytes: GIBIBYTE / 4 } : {}
    await streamsOf(fastify).start(() => values(history.events, history.bytes), { streamId: 'history', ...limits })
    await finished(fastify)
  }
  return { port, operations: { retention, registry } }
}

/** Streams that are held finished, and what each costs. */
async function retention(it: { streams: number; events: number; bytes: number }): Promise<object> {
  const fastify = await createApp({
    maxActiveStreams: it.streams + 1,
    maxTotalBufferBytes: 4 * GIBIBYTE,
    ...(it.events > MAX_EVENTS ? { bufferSize: it.events, bufferBytes: GIBIBYTE } : {})
  })
  fastify.get('/one', (_request, reply) => replyOf(reply).sseAttach('one'))
  await fastify.ready()
  await streamsOf(fastify).start(() => values(1, it.bytes), { streamId: 'one' })
  await finished(fastify)
  const { body } = await fastify.inject({ url: '/one', headers: { accept: 'text/event-stream' } })
  const frame = body.split('\n\n').find((block) => block.includes(valueOf(0, '', false)))
  if (frame === undefined) throw new Error(`no event in ${body}`)
  // The only number that grows is the sequence at its end: 1 here.
  const wireBytes = it.events * (frame.length + 2 - 1) + digitsUpTo(it.events)

  const before = await held()
  for (let stream = 0; stream < it.streams; stream++) {
    await streamsOf(fastify).start(() => values(it.events, it.bytes), { streamId: `s${stream}` })
    if (stream % 100 === 99) await finished(fastify)
  }
  await finished(fastify)
  const after = await held()
  const bytes = after.heapBytes + after.externalBytes - before.heapBytes - before.externalBytes
  const { bufferedBytes, finished: count } = streamsOf(fastify).stats()
  if (count !== it.streams + 1) throw new Error(`${count} of ${it.streams + 1} streams are held`)
  await fastify.close()
  return {
    perWireByte: bytes / (wireBytes * it.streams),
    perStream: bytes / it.streams,
    heapPerStream: (after.heapBytes - before.heapBytes) / it.streams,
    claimedPerHeld: bufferedBytes / bytes
  }
}

/** Decimal digits of all numbers from 1 to the limit. */
function digitsUpTo(limit: number): number {
  let digits = 0
  for (let from = 1; from <= limit; from *= 10) digits += limit - from + 1
  return digits
}

/** Start, finish and evict in a registry that is full of finished streams: microseconds of CPU per operation. */
async function registry(it: { capacity: number; operations: number }): Promise<number> {
  const fastify = await createApp({ maxActiveStreams: it.capacity, maxTotalBufferBytes: 8 * GIBIBYTE })
  await fastify.ready()
  const turn = async (operations: number): Promise<void> => {
    for (let index = 0; index < operations; index++) {
      await streamsOf(fastify).start(nothing)
      // Lets them finish.
      if (index % 100 === 99) await new Promise((resolve) => setImmediate(resolve))
    }
    await finished(fastify)
  }
  // Beyond the capacity, so that evicting is warm too.
  await turn(it.capacity + 20_000)
  globalThis.gc?.()
  const cpu = process.cpuUsage()
  await turn(it.operations)
  const { user, system } = process.cpuUsage(cpu)
  await fastify.close()
  return (user + system) / it.operations
}

async function* nothing(): AsyncGenerator<string, void> {}

async function* values(events: number, bytes: number): AsyncGenerator<string, void> {
  const body = bodyOf(bytes, false)
  for (let sequence = 0; sequence < events; sequence++) yield valueOf(sequence, body, false)
}

async function storeOf({ port, pollMs, leaseMs }: StoreSetting): Promise<unknown> {
  const { redisStore } = (await import(new URL('store/redis.js', BUILD).href)) as StoreModule
  // It is a template: the store has connections of its own.
  const client = new Redis({ port, host: '127.0.0.1', lazyConnect: true })
  return redisStore(client, { pollInterval: pollMs, lease: leaseMs })
}

async function createApp(options: object): Promise<FastifyInstance> {
  const fastify = Fastify()
  await fastify.register(streamPlugin, options)
  return fastify
}

async function finished(fastify: FastifyInstance): Promise<void> {
  while (streamsOf(fastify).stats().running > 0) await new Promise((resolve) => setImmediate(resolve))
}

function streamsOf(fastify: FastifyInstance): Streams {
  return (fastify as unknown as { sseStreams: Streams }).sseStreams
}

function replyOf(reply: unknown): StreamReply {
  return reply as StreamReply
}
