/**
 * LLM tokens over EventSource: nothing to write on the other side than
 *
 *     const source = new EventSource('/answer?q=…')
 *     source.addEventListener('token', (event) => (text += event.data))
 *     source.addEventListener('stream-end', () => source.close())
 *
 * The stream has no name: the browser finds it again by the id of the last event it got.
 */
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { type Llm, slowEcho } from './llm.ts'

const querystring = { type: 'object', required: ['q'], properties: { q: { type: 'string', minLength: 1 } } }

export async function build({ llm = slowEcho }: { llm?: Llm } = {}): Promise<FastifyInstance> {
  const fastify = Fastify()
  await fastify.register(streamPlugin)

  fastify.get<{ Querystring: { q: string } }>('/answer', { schema: { querystring } }, (request, reply) => {
    const { q } = request.query
    return reply.sseFromGenerator((signal) => llm(q, signal), { map: (token) => ({ event: 'token', data: token }) })
  })
  return fastify
}

if (process.argv[1] === import.meta.filename) {
  const fastify = await build()
  const origin = await fastify.listen({ host: '127.0.0.1', port: Number(process.env['PORT'] ?? 3000) })
  console.log(`curl -N '${origin}/answer?q=hello'`)
}
