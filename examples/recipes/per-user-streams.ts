/**
 * Streams of users: `owner` gives each user a namespace. Two users may use the same name, nobody finds the stream of
 * somebody else, and a foreign stream looks like none. EventSource sends cookies, so the login is one.
 */
import { randomBytes } from 'node:crypto'
import cookie from '@fastify/cookie'
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { type Llm, slowEcho } from './llm.ts'

export async function build({ llm = slowEcho }: { llm?: Llm } = {}): Promise<FastifyInstance> {
  const fastify = Fastify()
  await fastify.register(cookie, { secret: randomBytes(32) })
  fastify.decorateRequest('user', '')

  // Replace this by a login that asks for more than a name.
  fastify.post<{ Params: { name: string } }>('/login/:name', (request, reply) =>
    reply
      .setCookie('user', request.params.name, { signed: true, httpOnly: true, sameSite: 'strict', path: '/' })
      .code(204)
      .send()
  )

  await fastify.register(async (scope) => {
    scope.addHook('onRequest', async (request, reply) => {
      const { valid, value } = request.unsignCookie(request.cookies['user'] ?? '')
      if (!valid) return reply.code(401).send({ error: 'Log in first' })
      request.setDecorator('user', value)
    })
    // No stream exists without an owner: a request that reaches the plugin without one is an error, not a shared namespace.
    await scope.register(streamPlugin, {
      owner: (request) => request.getDecorator<string>('user'),
      maxStreamsPerOwner: 3
    })
    scope.get<{ Params: { id: string } }>('/answers/:id', (request, reply) =>
      reply.sseFromGenerator((signal, { owner }) => llm(`hello ${owner}`, signal), {
        streamId: request.params.id,
        map: (token) => ({ event: 'token', data: token })
      })
    )
    scope.delete<{ Params: { id: string } }>('/answers/:id', async (request, reply) => {
      const owner = request.getDecorator<string>('user')
      const isStopped = await scope.sseStreams.abort(request.params.id, { owner })
      return reply.code(isStopped ? 204 : 404).send()
    })
  })
  return fastify
}

if (process.argv[1] === import.meta.filename) {
  const fastify = await build()
  const origin = await fastify.listen({ host: '127.0.0.1', port: Number(process.env['PORT'] ?? 3000) })
  console.log(`curl -c jar -X POST ${origin}/login/ada && curl -b jar -N ${origin}/answers/a`)
}
