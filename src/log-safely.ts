import type { FastifyBaseLogger } from 'fastify'

/**
 * Writes a log line. A line must not take more along with it: users throw anything, and a serializer reads what they
 * threw; and a logger of their own may throw itself.
 */
export function logSafely(
  logger: FastifyBaseLogger,
  level: 'info' | 'warn' | 'error',
  fields: object,
  message: string
): void {
  try {
    logger[level](fields, message)
  } catch {
    logAgain(logger, level, message)
  }
}

function logAgain(logger: FastifyBaseLogger, level: 'info' | 'warn' | 'error', message: string): void {
  try {
    logger[level](`${message}; its details cannot be logged`)
  } catch {
    // Nobody is left to tell.
  }
}
