import type { FastifyBaseLogger } from 'fastify'

/**
 * Logs what user code threw. Users throw anything, and a serializer reads what they threw: a getter that throws must not
 * take more along with it.
 */
export function logSafely(
  logger: FastifyBaseLogger,
  level: 'warn' | 'error',
  error: unknown,
  fields: object,
  message: string
): void {
  try {
    logger[level]({ ...fields, err: error }, message)
  } catch {
    logger[level](fields, `${message}; what it threw cannot be logged`)
  }
}
