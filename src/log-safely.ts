import type { FastifyBaseLogger } from 'fastify'

type Level = 'debug' | 'info' | 'warn' | 'error'

/**
 * Writes a log line that must not take more along with it: users throw anything, and a serializer reads what they threw;
 * and a logger of their own may throw itself.
 */
export function logSafely(
  logger: FastifyBaseLogger,
  level: Level,
  fields: object,
  message: string,
  error?: unknown
): void {
  if (error === undefined) return tryToLog(logger, level, fields, message)
  try {
    logger[level]({ ...fields, err: error }, message)
  } catch {
    tryToLog(logger, level, fields, `${message}; what it threw cannot be logged`)
  }
}

function tryToLog(logger: FastifyBaseLogger, level: Level, fields: object, message: string): void {
  try {
    logger[level](fields, message)
  } catch {
    // Nobody is left to tell.
  }
}
