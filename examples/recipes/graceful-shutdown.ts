/**
 * Graceful shutdown, for Kubernetes and the like. On SIGTERM: no new streams, running ones get `drainTimeout` to finish,
 * the others are aborted, every client that has not everything is told to come back, and `close()` resolves.
 *
 *     spec:
 *       terminationGracePeriodSeconds: 45    # preStop + drainTimeout + abortTimeout + some
 *       containers:
 *         - lifecycle:
 *             preStop: { sleep: { seconds: 5 } }    # until no load balancer sends new requests here
 */
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { type Llm, slowEcho } from './llm.ts'

export async function build({ llm = slowEcho }: { llm?: Llm } = {}): Promise<FastifyInstance> {
  const fastify = Fastify({
    // Connections without a request, which browsers like to keep, would hold close() back.
    forceCloseConnections: true,
    // Fastify would answer 503 to a client that comes back between the end of the streams and that of the server, and an
    // EventSource gives up for ever on that. With this the plugin answers, and says when to come back.
    return503OnClosing: false,
    // Fastify gives up on a close hook after this time: it has to exceed the drain.
    pluginTimeout: 60_000
  })
  await fastify.register(streamPlugin, { drainTimeout: 30_000 })

  fastify.get('/answer', (_request, reply) =>
    reply.sseFromGenerator((signal) => llm('take your time', signal), {
      map: (token) => ({ event: 'token', data: token })
    })
  )
  return fastify
}

if (process.argv[1] === import.meta.filename) {
  const fastify = await build()
  process.once('SIGTERM', () => void fastify.close())
  const origin = await fastify.listen({ host: '127.0.0.1', port: Number(process.env['PORT'] ?? 3000) })
  console.log(`curl -N ${origin}/answer, and while it speaks: kill ${process.pid}`)
}
