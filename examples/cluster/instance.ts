/**
 * One instance of the application, in a process of its own. What makes it share its streams with the others is the option
 * `store`; the rest is what you would write for one process.
 */
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import streamPlugin from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { redisStore } from '../../src/store/redis.ts' // in your project: 'fastify-resumable-sse/redis'
import { speak } from '../demo/text.ts'

/** What an instance is told by the process that starts it, as `INSTANCE_SETTINGS`. */
export interface InstanceSettings {
  readonly redisPort: number
  /** How long a browser waits before it reconnects, in milliseconds. */
  readonly retry: number
}

/** Serves until the process that started it is gone, or lets go of it. `pause` waits before each word. */
export async function serve(pause: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
  const { redisPort, retry } = JSON.parse(process.env['INSTANCE_SETTINGS'] ?? '{}') as InstanceSettings
  // Not used for streams: the store makes connections like it.
  const redis = new Redis(redisPort, '127.0.0.1', { lazyConnect: true, maxRetriesPerRequest: 0 }).on('error', ignore)
  const fastify = Fastify({ forceCloseConnections: true })
  await fastify.register(streamPlugin, {
    // A lease of three seconds, so that a killed instance is found while you watch. An application keeps the default of
    // fifteen: a process that is only busy for a few seconds would be taken for dead.
    store: redisStore(redis, { lease: 3_000, pollInterval: 500 }),
    bufferTTL: 60_000,
    orphanTimeout: 60_000,
    maxActiveStreams: 50,
    retry
  })

  fastify.post<StreamRoute>('/streams/:name', (request) =>
    fastify.sseStreams.start((signal) => speak(pause, signal), { streamId: request.params.name })
  )

  // Maybe of another instance.
  fastify.get<StreamRoute>('/streams/:name', (request, reply) => reply.sseAttach(request.params.name))

  fastify.post<StreamRoute>('/streams/:name/stop', async (request) => ({
    stopped: await fastify.sseStreams.abort(request.params.name, { reason: 'Stopped on the page' })
  }))

  fastify.get<{ Querystring: { stream?: string } }>('/registry', async ({ query }) => ({
    streams: fastify.sseStreams.list(),
    found: query.stream ? await fastify.sseStreams.find(query.stream) : undefined
  }))

  const end = async (): Promise<void> => {
    await fastify.close()
    // Whoever started us may have been killed, and then nobody else is left to end Redis.
    await redis.shutdown('NOSAVE').catch(ignore)
    redis.disconnect()
  }
  // Ctrl+C reaches this process too; the one that started it decides.
  process.on('SIGINT', ignore)
  await fastify.listen({ host: '127.0.0.1', port: 0 })
  process.once('disconnect', () => void end())
  if (process.connected) process.send?.({ port: (fastify.server.address() as AddressInfo).port })
  else await end()
}

interface StreamRoute {
  Params: { name: string }
}

function ignore(): void {}

if (process.argv[1] === import.meta.filename) {
  await serve((signal) => sleep(130, undefined, { signal }))
}
