import type { Server } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** Connections that arrive at once must not be dropped before anything is measured. */
const BACKLOG = 8_192

export async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen({ port: 0, host: '127.0.0.1', backlog: BACKLOG }, resolve))
  return portOf(server)
}

function portOf(server: Server): number {
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

export async function listenFastify(fastify: FastifyInstance): Promise<number> {
  await fastify.listen({ port: 0, host: '127.0.0.1', backlog: BACKLOG })
  return portOf(fastify.server)
}
