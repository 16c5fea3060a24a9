/* PNG. Surprise: libpng reports errors by longjmp, which is caught here. */
#include "host/png.h"

#include <errno.h>
#include <png.h>
#include <stdlib.h>
#include <unistd.h>

struct sink { int fd, err; };

static void put(png_structp png, png_bytep data, size_t len)
{
	struct sink *s = png_get_io_ptr(png);
	while (len) {
		ssize_t n = write(s->fd, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			s->err = n < 0 ? -errno : -EIO;
			png_error(png, "write");
		}
		data += n;
		len -= (size_t)n;
	}
}

static void no_flush(png_structp png) {}
static void on_error(png_structp png, png_const_charp text) { png_longjmp(png, 1); }
static void on_warning(png_structp png, png_const_charp text) {}

static void write_rows(png_structp png, png_infop info, u8 *row, const u32 *pixel, u32 width, u32 height)
{
	png_set_IHDR(png, info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_write_info(png, info);
	for (u32 y = 0; y < height; y++) {
		for (u32 x = 0; x < width; x++) {
			u32 p = pixel[(size_t)y * width + x];
			row[3 * x] = (u8)(p >> 16);
			row[3 * x + 1] = (u8)(p >> 8);
			row[3 * x + 2] = (u8)p;
		}
		png_write_row(png, row);
	}
	png_write_end(png, NULL);
}

int host_write_png(int fd, const u32 *pixel, u32 width, u32 height)
{
	struct sink s = { .fd = fd };
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, on_error, on_warning);
	png_infop info = png ? png_create_info_struct(png) : NULL;
	u8 *volatile row = malloc((size_t)width * 3);
	volatile int err = info && row ? 0 : -ENOMEM;
	if (!err) {
		png_set_write_fn(png, &s, put, no_flush);
		if (setjmp(png_jmpbuf(png)))
			err = s.err ? s.err : -ENOMEM;
		else
			write_rows(png, info, row, pixel, width, height);
	}
	free(row);
	if (png)
		png_destroy_write_struct(&png, &info);
	return err;
}
