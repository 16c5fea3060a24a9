/* Where things are on the board: numbers only, because the DSDT's compiler reads this file too.
 * The layout is a q35's: RAM up to B0000000h, ECAM, the PCI window, then the interrupt controllers below 4 GiB. */
#ifndef NB_BOARD_MAP_H
#define NB_BOARD_MAP_H

#define BOARD_LOW_RAM_MAX   0xB0000000
#define BOARD_ECAM_BASE     0xB0000000
#define BOARD_ECAM_SIZE     0x10000000
#define BOARD_ECAM_LAST     0xBFFFFFFF
#define BOARD_ECAM_BUS_LAST 0xFF
#define BOARD_PCI32_BASE    0xC0000000
#define BOARD_PCI32_LAST    0xFEBFFFFF
#define BOARD_PCI32_SIZE    0x3EC00000
#define BOARD_PCI_IO_BASE   0xC000
#define BOARD_IOAPIC_BASE   0xFEC00000
#define BOARD_HPET_BASE     0xFED00000
#define BOARD_HPET_ID       0x8086A201
#define BOARD_LAPIC_BASE    0xFEE00000

#define BOARD_COM1_PORT     0x3F8
#define BOARD_FW_CFG_PORT   0x510
#define BOARD_PM_BASE       0x600
#define BOARD_PM_SIZE       0x80
#define BOARD_PM1_EVT       0x600
#define BOARD_PM1_CNT       0x604
#define BOARD_PM_TMR        0x608
#define BOARD_GPE0          0x620
#define BOARD_GPE0_LEN      16
#define BOARD_RESET_PORT    0xCF9
#define BOARD_RESET_VALUE   0x0F
#define BOARD_CMOS_CENTURY  0x32
#define BOARD_IRQ_COM1      4
#define BOARD_IRQ_RTC       8
#define BOARD_IRQ_SCI       9
/* PCI INTx: device d, pin p (0 = INTA) is GSI 16 + ((d + p) & 7). */
#define BOARD_GSI_PCI       16
#define BOARD_SLP_TYP_S5    0

/* The last 64 KiB pair below 1 MiB holds what firmware would have put there: E0000h ACPI, F0000h SMBIOS. */
#define BOARD_ACPI_BASE     0xE0000
#define BOARD_ACPI_SIZE     0x10000
#define BOARD_SMBIOS_BASE   0xF0000
#define BOARD_SMBIOS_SIZE   0x8000
#define BOARD_EBDA          0x9FC00

#endif
