/**
 * A stop button. Closing the EventSource is not enough: the run goes on, because the client might come back. Stop it by
 * its name; every client of the stream is told with `stream-error` `STREAM_ABORTED` and `stream-end`.
 */
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { type Llm, slowEcho } from './llm.ts'

export async function build({ llm = slowEcho }: { llm?: Llm } = {}): Promise<FastifyInstance> {
  const fastify = Fastify()
  await fastify.register(streamPlugin)

  fastify.get<{ Params: { id: string } }>('/answers/:id', (request, reply) =>
    reply.sseFromGenerator((signal) => llm('tell me everything', signal), {
      streamId: request.params.id,
      map: (token) => ({ event: 'token', data: token })
    })
  )

  fastify.delete<{ Params: { id: string } }>('/answers/:id', async (request, reply) => {
    const isStopped = await fastify.sseStreams.abort(request.params.id, { reason: 'Stopped by the user' })
    return reply.code(isStopped ? 204 : 404).send()
  })
  return fastify
}

if (process.argv[1] === import.meta.filename) {
  const fastify = await build()
  const origin = await fastify.listen({ host: '127.0.0.1', port: Number(process.env['PORT'] ?? 3000) })
  console.log(`curl -N ${origin}/answers/a, and while it speaks: curl -X DELETE ${origin}/answers/a`)
}
