/**
 * LLM tokens over POST: a prompt that does not fit into an address. `ask()` is the client.
 *
 * The client names the run before it asks for it. A request that is sent twice, because its answer never arrived,
 * therefore finds the run of the first one; a name nobody can guess keeps it to itself.
 */
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { readEvents } from './fetch-client.ts'
import { type Llm, slowEcho } from './llm.ts'

const body = {
  type: 'object',
  required: ['id', 'prompt'],
  properties: { id: { type: 'string', format: 'uuid' }, prompt: { type: 'string', minLength: 1, maxLength: 100_000 } }
}

export async function build({ llm = slowEcho }: { llm?: Llm } = {}): Promise<FastifyInstance> {
  const fastify = Fastify({ forceCloseConnections: true })
  await fastify.register(streamPlugin)

  fastify.post<{ Body: { id: string; prompt: string } }>('/answers', { schema: { body } }, (request, reply) => {
    const { id, prompt } = request.body
    return reply.sseFromGenerator((signal) => llm(prompt, signal), {
      streamId: id,
      map: (token) => ({ event: 'token', data: token })
    })
  })
  return fastify
}

/** Asks, and yields the tokens of the answer, whatever happens to the connection in between. */
export async function* ask(origin: string, prompt: string, signal?: AbortSignal): AsyncGenerator<string, void> {
  const events = readEvents(`${origin}/answers`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ id: crypto.randomUUID(), prompt }),
    signal: signal ?? null
  })
  for await (const { event, data } of events) {
    if (event === 'token') yield data
    // The answer is not whole: some of it is gone, or the model failed.
    if (event === 'stream-gap' || event === 'stream-error') throw new Error(data)
  }
}

if (process.argv[1] === import.meta.filename) {
  const fastify = await build()
  const origin = await fastify.listen({ host: '127.0.0.1', port: Number(process.env['PORT'] ?? 3000) })
  console.log(`Asking ${origin} a question`)
  for await (const token of ask(origin, 'Why is the sky blue?')) process.stdout.write(token)
  await fastify.close()
}
