/**
 * The demo: `npm run demo`, then open the address it prints. Another port: `PORT=3001 npm run demo`.
 *
 * A page reads a text word by word, loses its connection as often as you like, and gets every word exactly once.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin, { type StreamInfo } from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { run } from './command.ts'
import { Connections } from './connections.ts'
import { servePage } from './page.ts'
import { speak, words } from './text.ts'

export { text } from './text.ts'

const bufferTTL = 60_000
const orphanTimeout = 60_000

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

  servePage(fastify, new URL('index.html', import.meta.url))

  fastify.get<StreamRoute>('/streams/:name', (request, reply) => {
    connections.track(reply, request.params.name, request.query.tab ?? '')
    return reply.sseFromGenerator((signal) => speak(pause, signal), { streamId: request.params.name })
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

if (process.argv[1] === import.meta.filename) {
  await run('demo', async () => {
    const fastify = await build()
    return { listen: (host, port) => fastify.listen({ host, port }), close: () => fastify.close() }
  })
}
