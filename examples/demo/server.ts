/**
 * The demo: `npm run demo`, then open the address it prints. Another port: `PORT=3001 npm run demo`.
 *
 * A page reads a text word by word, loses its connection as often as you like, and gets every word exactly once.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin, { type StreamInfo } from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { Connections } from './connections.ts'

const host = '127.0.0.1'
const bufferTTL = 60_000
const orphanTimeout = 60_000

/** What is streamed. Herman Melville, Moby-Dick (1851), the first three paragraphs. */
export const text: string = readFileSync(new URL('text.txt', import.meta.url), 'utf8').trimEnd()
const page = readFileSync(new URL('index.html', import.meta.url))

/** The words with the white space that follows them, so that joining them gives the text again. */
const words = text.match(/\S+\s*/g) ?? []

export interface DemoOptions {
  /** Waits before each word. By default about an eighth of a second. */
  readonly pause?: ((signal: AbortSignal) => Promise<unknown>) | undefined
  /** How long a browser waits before it reconnects, in milliseconds. */
  readonly retry?: number | undefined
}

export async function build(options: DemoOptions = {}): Promise<FastifyInstance> {
  const { pause = (signal) => sleep(130, undefined, { signal }), retry = 2_500 } = options
  const connections = new Connections()
  const fastify = Fastify({ forceCloseConnections: true })
  await fastify.register(streamPlugin, { bufferTTL, orphanTimeout, retry, maxActiveStreams: 50 })

  fastify.get('/', (_request, reply) => reply.type('text/html; charset=utf-8').send(page))

  fastify.get<StreamRoute>('/streams/:name', (request, reply) => {
    connections.track(reply, request.params.name, request.query.tab ?? '')
    return reply.sseFromGenerator(
      async function* (signal) {
        for (const word of words) {
          await pause(signal)
          yield { event: 'word', data: word }
        }
      },
      { streamId: request.params.name }
    )
  })

  fastify.post<StreamRoute>('/streams/:name/drop', (request) => ({
    dropped: connections.cut(request.params.name, request.query.tab ?? '')
  }))

  fastify.post<StreamRoute>('/streams/:name/stop', async (request) => ({
    stopped: await fastify.sseStreams.abort(request.params.name, { reason: 'Stopped on the page' })
  }))

  // Polled, not streamed: a browser opens at most six HTTP/1.1 connections to a host, and every tab holds one already.
  fastify.get('/registry', () => {
    const streams = fastify.sseStreams.list()
    connections.keepOnly(new Set(streams.map((stream) => stream.streamId)))
    return {
      words: words.length,
      stats: fastify.sseStreams.stats(),
      streams: streams.map((stream) => ({ ...stream, leavesInMs: leavesInMs(stream, connections) }))
    }
  })

  return fastify
}

interface StreamRoute {
  Params: { name: string }
  Querystring: { tab?: string }
}

/** Time until a stream without clients is aborted (running) or removed (finished). The plugin itself keeps the timers. */
function leavesInMs(stream: StreamInfo, connections: Connections): number | null {
  if (stream.clients > 0) return null
  const since = Math.max(stream.finishedAt ?? stream.startedAt, connections.lastLeftAt(stream.streamId) ?? 0)
  return Math.max(0, since + (stream.state === 'finished' ? bufferTTL : orphanTimeout) - Date.now())
}

function parsePort(value: string | undefined): number {
  if (value === undefined || value === '') return 3000
  const port = Number(value)
  if (/^\d+$/.test(value) && port <= 65_535) return port
  throw new Error(`PORT must be a whole number from 0 to 65535, not "${value}". For example: PORT=3001 npm run demo`)
}

/** The error of `listen()` in words that say what to do next. */
function explain(error: unknown, port: number): unknown {
  const { code } = error as NodeJS.ErrnoException
  const fix = `Choose another one, for example: PORT=${port >= 1024 && port < 65_535 ? port + 1 : 3001} npm run demo`
  if (code === 'EADDRINUSE') return new Error(`Port ${port} on ${host} is already in use. ${fix}`, { cause: error })
  if (code === 'EACCES') return new Error(`You may not listen on port ${port} of ${host}. ${fix}`, { cause: error })
  return error
}

/** The shell between npm and this process does not pass a SIGTERM on: without this, `kill` of `npm run demo` leaves it here. */
function whenParentExits(onExit: () => void): void {
  if (process.env['npm_lifecycle_event'] !== 'demo') return
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    onExit()
  }, 500).unref()
}

async function main(): Promise<void> {
  const port = parsePort(process.env['PORT'])
  const fastify = await build()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void fastify.close())
  whenParentExits(() => void fastify.close())
  try {
    console.log(`The demo is at ${await fastify.listen({ host, port })} (Ctrl+C ends it)`)
  } catch (error) {
    await fastify.close()
    throw explain(error, port)
  }
}

if (process.argv[1] === import.meta.filename) {
  main().catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  })
}
